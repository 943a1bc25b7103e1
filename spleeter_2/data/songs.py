"""The song finder of training and evaluation: songs of a data set, and where their stems are.

Sources: MUSDB18 (``.stem.mp4``), MUSDB18-HQ (WAV), any folder of songs, Spleeter's CSV files:

    MUSDB18/train/SONG.stem.mp4
    MUSDB18-HQ/train/SONG/{mixture,vocals,drums,bass,other}.wav
    FOLDER/SONG/{mixture,vocals,accompaniment}.EXT     any audio; or with drums, bass, other
    SONGS.csv                                          mix_path,vocals_path,...,duration

No audio file is opened. A song that cannot be used is listed with the reason, ``Song.fault``:
training leaves it out, evaluation reports it as an error of that track.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import os
import unicodedata
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional, Union

from spleeter_2.audio.folders import is_hidden
from spleeter_2.audio.reader import SUFFIXES
from spleeter_2.errors import SeparationError

STEM_FILE = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a .stem.mp4, as in musdb
SUBSETS = ("train", "test")
PARTS = ("drums", "bass", "other", "piano", "guitar")  # their sum is the accompaniment
STEMS = ("mixture", "vocals", "accompaniment", *PARTS)
PATH = "_path"  # end of a column of files in Spleeter's CSV files
LEFT_OUT = "left out"
EXPECTED = (
    "expected SONG/vocals.wav beside SONG/accompaniment.wav or drums, bass and other (any audio "
    f"format), or SONG{STEM_FILE}, in the folder itself or in folders train and test (MUSDB18, "
    "MUSDB18-HQ); evaluation needs SONG/mixture.wav too"
)


@dataclass(frozen=True)
class StemFile:
    """An audio file and the index of its audio stream (None: ffmpeg's choice)."""

    path: Path
    stream: Optional[int] = None


@dataclass(frozen=True)
class Song:
    """A song of a data set.

    Attributes:
        path: its ``.stem.mp4``, its folder, or the CSV file that lists it.
        stems: every stem that was found; in a folder or ``.stem.mp4`` the mixture too.
        subset: "train" or "test"; None in a data set without subsets.
        fault: why the song cannot be used; empty if it can.
    """

    name: str
    path: Path
    stems: dict[str, StemFile] = field(default_factory=dict)
    subset: Optional[str] = None
    fault: str = ""

    @property
    def key(self) -> str:
        """The name in the form in which two songs must differ."""
        return _key(self.name)

    def parts(self, instrument: str) -> tuple[str, ...]:
        """Names of the stems whose sum is an instrument; empty if the song lacks it."""
        return _parts(self.stems, instrument)

    def files(self, instrument: str) -> tuple[StemFile, ...]:
        """Files whose sum is an instrument; empty if the song lacks it."""
        return tuple(self.stems[part] for part in self.parts(instrument))


@dataclass(frozen=True)
class Note:
    """A remark on a song: ``what`` is printed once for all songs that share it."""

    song: str
    what: str
    detail: str = ""


@dataclass(frozen=True)
class Songs(Sequence):
    """Songs of a data set, the instruments that they are used for, and remarks on them."""

    source: str
    songs: tuple[Any, ...]
    instruments: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, index):
        return self.songs[index]

    def lines(self, most: int = 3) -> list[str]:
        """The summary: a heading, and a line per kind of note that names at most ``most`` songs."""
        kinds: dict[str, list[Note]] = {}
        for note in self.notes:
            kinds.setdefault(note.what, []).append(note)
        lines = [f"{_count(len(self), 'song')} in {self.source}: {', '.join(self.instruments)}"]
        for what, notes in kinds.items():
            items = [f"{note.song} ({note.detail})" if note.detail else note.song for note in notes]
            more = f" and {len(items) - most} more" if len(items) > most else ""
            names = len({note.song for note in notes})
            lines.append(f"  {what}: {_count(names, 'song')}: {'; '.join(items[:most])}{more}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def find_songs(
    source: Path,
    subset: Optional[str] = None,
    instruments: Sequence[str] = (),
    folder: Optional[Path] = None,
) -> Songs:
    """Find the songs of a data set, sorted by name; those that cannot be used are included.

    Args:
        source: a folder, or a CSV file in Spleeter's format.
        subset: "train" or "test" of a data set that has subsets; None takes "train" if there is
            such a folder, else ``source`` itself.
        instruments: names of further stems to look for; columns that a CSV file must have.
        folder: of the paths in a CSV file (default: its own).

    Raises:
        SeparationError: no such folder or subset, no songs, a CSV file without the columns needed.
    """
    if subset not in (None, *SUBSETS):
        raise SeparationError(f"the subset must be train or test, not {subset}")
    if source.suffix.lower() == ".csv" and not source.is_dir():
        songs = _csv_songs(source, instruments, folder or source.parent)
        hint = "it has no rows"
    else:
        try:
            source, subset = _subset_folder(source, subset, instruments)
            songs = _folder_songs(source, subset, instruments)
            lone = not songs and _holds_stems(source)
        except OSError as error:
            raise SeparationError(f"cannot read {error.filename}: {error.strerror}") from error
        hint = "it is a song itself; give the folder above it" if lone else EXPECTED
    if not songs:
        raise SeparationError(f"there are no songs in {source}: {hint}")
    return Songs(str(source), tuple(songs))


def training_songs(
    source: Path, instruments: Sequence[str], folder: Optional[Path] = None
) -> Songs:
    """The songs of a data set that have all instruments; the others are named in the notes.

    A song without ``accompaniment`` gets it as the sum of its drums, bass, other, piano and guitar,
    as far as it has them.

    Args:
        folder: of the paths in a CSV file (default: its own).

    Raises:
        SeparationError: see ``find_songs``; no song can be used.
    """
    instruments = tuple(instruments)
    if not instruments or len(set(instruments)) < len(instruments):
        raise SeparationError(f"instruments must be different names, not {list(instruments)}")
    found = find_songs(Path(source), None, instruments, folder)
    songs, notes = [], []
    owners: dict[str, Song] = {}
    for song in found:
        if owners.setdefault(song.key, song) is not song:
            song = replace(song, fault="another song has the same name: rename one of them")
        fault = song.fault or _missing(song, instruments)
        if fault:
            notes.append(Note(song.name, LEFT_OUT, fault))
            continue
        songs.append(song)
        if "accompaniment" in instruments and "accompaniment" not in song.stems:
            parts = ", ".join(song.parts("accompaniment"))
            notes.append(Note(song.name, f"accompaniment is the sum of {parts}"))
    result = Songs(found.source, tuple(songs), instruments, tuple(notes))
    refuse_none(result)
    return result


def refuse_none(songs: Songs) -> None:
    """Raise a ``SeparationError`` with the first reason if every song was left out."""
    if songs:
        return
    faults = [note for note in songs.notes if note.what == LEFT_OUT]
    raise SeparationError(
        f"none of the {_count(len(faults), 'song')} in {songs.source} can be used: "
        f"{faults[0].song}: {faults[0].detail}"
    )


def songs_named(songs: Songs, names: Sequence[str]) -> list[Any]:
    """The songs of these names, in the order of ``songs``.

    Raises:
        SeparationError: an unknown name.
    """
    known = {_key(song.name) for song in songs}
    for name in names:
        if _key(name) not in known:
            close = difflib.get_close_matches(name, [song.name for song in songs], n=3)
            hint = f"; there is {', '.join(close)}" if close else ""
            raise SeparationError(f"there is no song {name} in {songs.source}{hint}")
    wanted = {_key(name) for name in names}
    return [song for song in songs if _key(song.name) in wanted]


def split(
    songs: Songs, validation: Union[float, Sequence[str]], seed: int = 0
) -> tuple[Songs, Songs]:
    """Set songs aside for validation, before anything is mixed.

    Args:
        songs: found or cached.
        validation: names of songs, or the fraction of songs, at least one unless it is 0.
        seed: of the choice; adding or removing a song moves at most one other song.

    Returns:
        songs for training and for validation; the latter may be empty.

    Raises:
        SeparationError: an unknown name, or no song left to train with.
    """
    if isinstance(validation, (int, float)):
        if not 0 <= validation < 1:
            raise SeparationError(
                f"the fraction of songs for validation must lie between 0 and 1, not {validation}"
            )
        number = max(round(validation * len(songs)), 1) if validation else 0
        aside = sorted(songs, key=lambda song: _rank(song.name, seed))[:number]
    else:
        aside = songs_named(songs, validation)
    chosen = {_key(song.name) for song in aside}
    sides = [
        replace(
            songs,
            songs=tuple(song for song in songs if (_key(song.name) in chosen) == side),
            notes=tuple(note for note in songs.notes if (_key(note.song) in chosen) == side),
        )
        for side in (False, True)
    ]
    if not sides[0]:
        raise SeparationError(
            f"of {_count(len(songs), 'song')} in {songs.source} none is left to train with: "
            + (
                "set fewer aside for validation"
                if len(songs) > 1
                else "at least two are needed, one of them to validate with"
            )
        )
    return sides[0], sides[1]


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{_key(name)}".encode()).digest()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _key(name: str) -> str:
    """Normal form of a name: file systems may ignore case and Unicode composition."""
    return unicodedata.normalize("NFC", name).casefold()


def _parts(stems: Container[str], instrument: str) -> tuple[str, ...]:
    """Names of the stems whose sum is an instrument; empty if it is missing."""
    if instrument in stems:
        return (instrument,)
    if instrument == "accompaniment":
        return tuple(part for part in PARTS if part in stems)
    return ()


def _missing(song: Song, instruments: Sequence[str]) -> str:
    """Files or instruments that a song lacks, as a message; empty if it is complete."""
    for instrument in instruments:
        for file in song.files(instrument):
            if not file.path.is_file():  # a CSV file may list anything
                return f"there is no file {file.path}"
    missing = [instrument for instrument in instruments if not song.parts(instrument)]
    return f"it lacks {', '.join(missing)}" if missing else ""


def _subset_folder(
    source: Path, subset: Optional[str], instruments: Sequence[str]
) -> tuple[Path, Optional[str]]:
    """The folder to search and its subset, None for ``source`` itself."""
    if not source.is_dir():
        raise SeparationError(
            f"{source} is neither a folder nor a .csv file"
            if source.exists()
            else f"there is no folder {source}"
        )
    wanted = subset or "train"
    if _is_subset(source / wanted, instruments):
        return source / wanted, wanted
    (other,) = set(SUBSETS) - {wanted}
    if subset and _is_subset(source / other, instruments):
        raise SeparationError(f"{source} has no folder {subset}, but {other}: see --subset")
    return source, None


def _is_subset(folder: Path, instruments: Sequence[str]) -> bool:
    """Return True for a folder of songs; a song, or any other folder, may be called "train"."""
    if not folder.is_dir():
        return False
    beside = any(
        song.path.name not in SUBSETS for song in _folder_songs(folder.parent, None, instruments)
    )
    try:
        if _holds_stems(folder, instruments):
            return False
        return not beside or bool(_folder_songs(folder, None, instruments))
    except OSError:
        if beside:  # a song that cannot be read
            return False
        raise


def _folder_songs(folder: Path, subset: Optional[str], instruments: Sequence[str]) -> list[Song]:
    songs = []
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        if path.is_file() and path.name.lower().endswith(STEM_FILE):
            stems = {name: StemFile(path, stream) for stream, name in enumerate(STREAMS)}
            songs.append(Song(path.name[: -len(STEM_FILE)], path, stems, subset))
        elif path.is_dir():
            try:
                if _holds_stems(path, instruments):
                    songs.append(_folder_song(path, subset, instruments))
            except OSError as error:
                fault = f"cannot read {path}: {error.strerror}"
                songs.append(Song(path.name, path, subset=subset, fault=fault))
    return songs


def _holds_stems(folder: Path, instruments: Sequence[str] = ()) -> bool:
    """Return True if a folder looks like a song: it has at least one stem."""
    return any(_stem_name(name, instruments) for name in os.listdir(folder))


def _stem_name(file: str, instruments: Sequence[str]) -> Optional[str]:
    """The stem that an audio file's name stands for, or None."""
    name, suffix = os.path.splitext(file)
    known = {stem.casefold(): stem for stem in (*STEMS, *instruments)}
    return known.get(name.casefold()) if suffix.lower() in SUFFIXES else None


def _folder_song(folder: Path, subset: Optional[str], instruments: Sequence[str]) -> Song:
    stems: dict[str, StemFile] = {}
    fault = ""
    for file in sorted(os.listdir(folder)):
        name = _stem_name(file, instruments)
        if name in stems:
            fault = fault or f"it has {stems[name].path.name} and {file}: keep one of them"
        elif name:
            stems[name] = StemFile(folder / file)
    return Song(folder.name, folder, stems, subset, fault)


def _csv_songs(path: Path, instruments: Sequence[str], folder: Path) -> list[Song]:
    """Songs of a CSV file: a stem per column ``NAME_path``; paths are relative to a folder.

    ``mix_path`` and ``duration`` are ignored: the mixture is the sum, the length is the file's own.
    Columns are separated by commas, semicolons or tabs, with or without blanks around them.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            rows = csv.DictReader(file, strict=True, delimiter=delimiter, skipinitialspace=True)
            columns = [name for name in rows.fieldnames or () if name.strip()]
            names = _stem_columns(columns, instruments)
            missing = [name for name in instruments if not _parts(names.values(), name)]
            if missing:
                wanted = ", ".join(f"{name}_path" for name in missing)
                raise SeparationError(
                    f"{path} lacks the column {wanted}; it has "
                    f"{', '.join(map(str.strip, columns)) or 'none'}: "
                    "Spleeter's CSV files begin with a line such as "
                    f"mix_path,{','.join(f'{name}_path' for name in instruments)},duration"
                )
            listed = [
                {name: (row[column] or "").strip() for column, name in names.items()}
                for row in rows
            ]
    except OSError as error:
        raise SeparationError(f"cannot read {path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise SeparationError(f"{path} is not a CSV file in UTF-8: {error}") from error
    stems = [{name: value for name, value in row.items() if value} for row in listed]
    folders = [{os.path.dirname(value) for value in row.values()} for row in stems]
    songs = []
    for number, (row, own) in enumerate(zip(stems, folders, strict=True), start=2):
        # a song is named after its folder if no other song is in it
        name = "".join(own if len(own) == 1 and folders.count(own) == 1 else ())
        name = name or next(iter(row.values()), f"line {number}")
        found = {stem: StemFile(folder / value) for stem, value in row.items()}
        songs.append(Song(name, path, found))
    return songs


def _delimiter(header: str) -> str:
    """The character that makes most columns of paths; spreadsheets may write semicolons."""
    return max(
        ",;\t",
        key=lambda delimiter: sum(
            name.strip(' "\r\n').lower().endswith(PATH) for name in header.split(delimiter)
        ),
    )


def _stem_columns(columns: Sequence[str], instruments: Sequence[str]) -> dict[str, str]:
    """The stem of each column ``NAME_path``; blanks around a name and its case do not matter."""
    known = {name.casefold(): name for name in instruments}
    found = {}
    for column in columns:
        name = column.strip().casefold()
        if name.endswith(PATH) and name != f"mix{PATH}":
            name = name[: -len(PATH)]
            found[column] = known.get(name, name)
    return found
