"""Songs whose stems are on disk: which there are, what each lacks, how they are split.

Sources are MUSDB18 (``.stem.mp4``), MUSDB18-HQ (WAV), any folder of songs, and Spleeter's CSV:

    MUSDB18/train/SONG.stem.mp4
    MUSDB18-HQ/train/SONG/{vocals,drums,bass,other}.wav
    FOLDER/SONG/{vocals,accompaniment}.EXT             any audio; or with drums, bass, other
    SONGS.csv                                          mix_path,vocals_path,...,duration

No audio file is opened to find songs, and one bad song is left out and named.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib.util
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional, Union

import numpy as np

from spleeter_2.audio.reader import SUFFIXES
from spleeter_2.errors import SeparationError

STEM_FILE = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a .stem.mp4, as in musdb
SUBSETS = ("train", "test")
PARTS = ("drums", "bass", "other", "piano", "guitar")  # what an accompaniment is the sum of
STEMS = ("vocals", "accompaniment", *PARTS)
SILENCE = 1e-3  # -60 dB under full scale: a peak or an RMS below it is silence
FULL_SCALE = 32768.0  # of int16


@dataclass(frozen=True)
class StemFile:
    """A file of audio and the number of its audio stream, from 0."""

    path: Path
    stream: int = 0


@dataclass(frozen=True)
class Song:
    """A song as it was found: each instrument is the sum of its files."""

    name: str
    stems: dict[str, tuple[StemFile, ...]]


@dataclass(frozen=True)
class Stem:
    """A decoded stem in the cache.

    Samples are ``int16 * scale / 32768``; ``scale`` exceeds 1 where the source exceeds full scale.
    """

    path: Path
    nb_samples: int
    nb_channels: int
    sample_rate: int
    scale: float
    peak: float
    source_rate: int
    source_channels: int
    notes: tuple[str, ...]

    def add_to(self, out: np.ndarray, start: int) -> None:
        """Add the samples from ``start`` on to float32 ``[n, C]``."""
        count = len(out) * self.nb_channels
        offset = 2 * start * self.nb_channels
        try:
            samples = np.fromfile(self.path, "<i2", count, offset=offset)
        except OSError:
            samples = np.zeros(0)
        if len(samples) < count:
            raise SeparationError(
                f"a stem in the cache {self.path.parent} is gone or damaged: run again, which "
                "decodes it anew"
            )
        out += samples.reshape(-1, self.nb_channels) * np.float32(self.scale / FULL_SCALE)


@dataclass(frozen=True)
class DecodedSong:
    """A song whose stems are in the cache, ``nb_samples`` long: as long as the shortest."""

    name: str
    nb_samples: int
    stems: dict[str, tuple[Stem, ...]]

    def read(self, instrument: str, start: int, nb_samples: int) -> np.ndarray:
        """float32 ``[nb_samples, C]`` from ``start`` on; silence after the song's end."""
        stems = self.stems[instrument]
        out = np.zeros((nb_samples, stems[0].nb_channels), np.float32)
        inside = max(min(nb_samples, self.nb_samples - start), 0)
        for stem in stems:
            stem.add_to(out[:inside], start)
        return out

    def is_silent(self, instrument: str) -> bool:
        """Whether nothing of it ever exceeds -60 dB."""
        return all(stem.peak < SILENCE for stem in self.stems[instrument])


@dataclass(frozen=True)
class Note:
    """What a user should know of a song: ``what`` is said once for all songs that share it."""

    song: str
    what: str
    detail: str = ""


LEFT_OUT = "left out"


@dataclass(frozen=True)
class Songs(Sequence):
    """Songs, found or decoded, and what there is to say about them."""

    source: str
    instruments: tuple[str, ...]
    songs: tuple[Union[Song, DecodedSong], ...]
    notes: tuple[Note, ...] = ()

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, index):
        return self.songs[index]

    def lines(self, most: int = 3) -> list[str]:
        """The summary: a heading, and a line per kind of note that names at most ``most`` songs."""
        heading = f"{_count(len(self), 'song')} in {self.source}: {', '.join(self.instruments)}"
        decoded = [song for song in self.songs if isinstance(song, DecodedSong)]
        if decoded:
            rate = next(iter(decoded[0].stems.values()))[0].sample_rate
            seconds = sum(song.nb_samples for song in decoded) / rate
            size = sum(stem.path.stat().st_size for stem in _stems(decoded))
            heading += (
                f", {seconds / 60:.1f} minutes, {size / 1e9:.2f} GB in the cache "
                f"{next(_stems(decoded)).path.parent}"
            )
        kinds: dict[str, list[Note]] = {}
        for note in self.notes:
            kinds.setdefault(note.what, []).append(note)
        lines = [heading]
        for what, notes in kinds.items():
            told = [f"{note.song} ({note.detail})" if note.detail else note.song for note in notes]
            more = f" and {len(told) - most} more" if len(told) > most else ""
            names = len({note.song for note in notes})
            lines.append(f"  {what}: {_count(names, 'song')}: {'; '.join(told[:most])}{more}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _stems(songs: Sequence[DecodedSong]) -> Iterator[Stem]:
    """All stems, each once."""
    seen = set()
    for song in songs:
        for stem in (stem for stems in song.stems.values() for stem in stems):
            if stem.path not in seen:
                seen.add(stem.path)
                yield stem


def refuse_none(songs: Songs, hint: str) -> None:
    """Raise a ``SeparationError`` where no song is left: why, or ``hint`` where none was found."""
    if len(songs):
        return
    reasons = [note for note in songs.notes if note.what == LEFT_OUT]
    if not reasons:
        raise SeparationError(f"there are no songs in {songs.source}: {hint}")
    raise SeparationError(
        f"none of the {_count(len(reasons), 'song')} in {songs.source} can be used: "
        f"{reasons[0].song}: {reasons[0].detail}"
    )


def find_songs(
    source: Path,
    instruments: Sequence[str],
    subset: Optional[str] = None,
    root: Optional[Path] = None,
) -> Songs:
    """Find the songs of a data set; no audio file is opened.

    A song that lacks ``accompaniment`` gets it as the sum of its drums, bass, other, piano and
    guitar, as far as they are there. A song that lacks another instrument is left out.

    Args:
        source: a folder, or a CSV file as Spleeter wants it.
        subset: "train" or "test" of a data set that has them; None takes "train" there.
        root: folder that the paths in a CSV are relative to; None: the folder of the CSV.

    Raises:
        SeparationError: no folder, no song that can be used, a CSV without the columns needed.
    """
    source, instruments = Path(source), tuple(instruments)
    if not instruments or len(set(instruments)) < len(instruments):
        raise SeparationError(f"instruments must differ, and be some, not {list(instruments)}")
    if subset not in (None, *SUBSETS):
        raise SeparationError(f"the subset must be train or test, not {subset}")
    if source.suffix.lower() == ".csv":
        found = _csv_songs(source, instruments, Path(root) if root else source.parent)
        hint = "it has no rows"
    else:
        source = _subset_folder(source, subset)
        found = _folder_songs(source, instruments)
        hint = (
            "expected SONG/vocals.wav beside SONG/accompaniment.wav (or drums, bass, other; any "
            f"audio format), or SONG{STEM_FILE}, or both of these in a folder train"
        )
        if not found and source.is_dir() and _holds_stems(source):
            hint = "it is a song itself; give the folder above it"
    songs, notes = [], []
    for name, stems in _with_unique_names(found):
        if isinstance(stems, str):
            notes.append(Note(name, LEFT_OUT, stems))
            continue
        chosen = {instrument: _choose(stems, instrument) for instrument in instruments}
        missing = [instrument for instrument, files in chosen.items() if not files]
        if missing:
            notes.append(Note(name, LEFT_OUT, f"it lacks {', '.join(missing)}"))
            continue
        songs.append(
            Song(name, {key: tuple(stems[part] for part in chosen[key]) for key in chosen})
        )
        parts = chosen.get("accompaniment", ())
        if len(parts) and parts != ("accompaniment",):
            notes.append(Note(name, f"accompaniment is the sum of {', '.join(parts)}"))
    result = Songs(str(source), instruments, tuple(songs), tuple(notes))
    refuse_none(result, hint)
    return result


Found = list[tuple[str, Union[dict[str, StemFile], str]]]  # name; stems, or why it cannot be used


def _choose(stems: dict[str, StemFile], instrument: str) -> tuple[str, ...]:
    """Names of the stems whose sum is an instrument; none where it is missing."""
    if instrument in stems:
        return (instrument,)
    if instrument == "accompaniment":
        return tuple(part for part in PARTS if part in stems)
    return ()


def _with_unique_names(found: Found) -> Found:
    """Songs whose names differ; a second one of a name is left out."""
    owners: set[str] = set()
    result: Found = []
    for name, stems in found:
        key = _key(name)
        if key in owners:
            stems = "another song has the same name: rename one of them"
        owners.add(key)
        result.append((name, stems))
    return result


def _key(name: str) -> str:
    """What two names share that a file system or a reader may take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _subset_folder(source: Path, subset: Optional[str]) -> Path:
    """The folder whose songs are meant."""
    if not source.is_dir():
        raise SeparationError(
            f"{source} is neither a folder nor a .csv file"
            if source.exists()
            else f"there is no folder {source}"
        )
    try:
        present = [
            name for name in SUBSETS if (source / name).is_dir() and not _holds_stems(source / name)
        ]
    except OSError as error:
        raise SeparationError(f"cannot read {source}: {error.strerror}") from error
    if subset is None:
        return source / "train" if "train" in present else source
    if subset not in present:
        raise SeparationError(f"{source} has no folder {subset}")
    return source / subset


def _folder_songs(folder: Path, instruments: tuple[str, ...]) -> Found:
    found: Found = []
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_file() and path.name.lower().endswith(STEM_FILE):
                stems = {name: StemFile(path, stream) for stream, name in enumerate(STREAMS)}
                found.append((path.name[: -len(STEM_FILE)], stems))
            elif path.is_dir() and _holds_stems(path, instruments):
                found.append((path.name, _stem_files(path, instruments)))
    except OSError as error:
        raise SeparationError(f"cannot read {folder}: {error.strerror}") from error
    return found


def _holds_stems(folder: Path, instruments: Sequence[str] = ()) -> bool:
    """Whether it looks like a song: a stem may be missing, but some are there."""
    return any(_stem_name(name, instruments) for name in os.listdir(folder))


def _stem_name(file: str, instruments: Sequence[str]) -> Optional[str]:
    """Which stem an audio file is, by its name."""
    name, suffix = os.path.splitext(file)
    known = {stem.casefold(): stem for stem in ("mixture", *STEMS, *instruments)}
    return known.get(name.casefold()) if suffix.lower() in SUFFIXES else None


def _stem_files(folder: Path, instruments: Sequence[str]) -> Union[dict[str, StemFile], str]:
    found: dict[str, StemFile] = {}
    for file in sorted(os.listdir(folder)):
        name = _stem_name(file, instruments)
        if name in found:
            return f"it has {found[name].path.name} and {file}: keep one of them"
        if name:
            found[name] = StemFile(folder / file)
    return found


def _csv_songs(path: Path, instruments: tuple[str, ...], root: Path) -> Found:
    """Rows of a CSV with the columns ``NAME_path``; the others (mix_path, duration) are not
    needed: the mixture is the sum, and a file's length is its own."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, strict=True)
            columns = [name for name in rows.fieldnames or () if name]
            stems = {
                name[: -len("_path")]: name
                for name in columns
                if name.endswith("_path") and name != "mix_path"
            }
            missing = [name for name in instruments if not _choose(stems, name)]
            if missing:
                wanted = ", ".join(f"{name}_path" for name in missing)
                raise SeparationError(
                    f"{path} lacks the column {wanted}; it has {', '.join(columns) or 'none'}: "
                    "Spleeter's CSV files begin with a line such as "
                    f"mix_path,{','.join(f'{name}_path' for name in instruments)},duration"
                )
            listed = [{key: row[stems[key]] for key in stems} for row in rows]
    except OSError as error:
        raise SeparationError(f"cannot read {path}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise SeparationError(f"{path} is not a CSV file in UTF-8: {error}") from error
    used = {part for name in instruments for part in _choose(stems, name)}
    paths = [
        {stem: value.strip() for stem, value in row.items() if value and value.strip()}
        for row in listed
    ]
    folders = [{os.path.dirname(value) for value in row.values()} for row in paths]
    found: Found = []
    for number, (row, own) in enumerate(zip(paths, folders, strict=True), start=2):
        # a song is called by its folder where that is its own
        name = "".join(own if len(own) == 1 and folders.count(own) == 1 else ())
        name = name or next(iter(row.values()), f"line {number}")
        found.append((name, _csv_stems(row, used, root)))
    return found


def _csv_stems(
    paths: dict[str, str], used: set[str], root: Path
) -> Union[dict[str, StemFile], str]:
    """Stems of a row, or why it cannot be used."""
    for stem in sorted(used & set(paths)):
        if not (root / paths[stem]).is_file():
            return f"there is no file {root / paths[stem]}"
    return {stem: StemFile(root / path) for stem, path in paths.items()}


def split(
    songs: Songs, validation: Union[float, Sequence[str]], seed: int = 0
) -> tuple[Songs, Songs]:
    """Set songs for validation aside, before anything is mixed.

    Args:
        songs: found or decoded.
        validation: names of songs (such as ``musdb18_validation()``), or the fraction of songs,
            at least one unless it is 0.
        seed: which ones; a song that is added or removed moves no more than one other.

    Returns:
        songs for training and for validation, which may be none.

    Raises:
        SeparationError: an unknown name, or nothing left to train with.
    """
    if isinstance(validation, (int, float)):
        if not 0 <= validation < 1:
            raise SeparationError(
                f"the fraction of songs for validation must lie between 0 and 1, not {validation}"
            )
        number = max(round(validation * len(songs)), 1) if validation else 0
        ranked = sorted(songs, key=lambda song: _rank(song.name, seed))
        chosen = {_key(song.name) for song in ranked[:number]}
    else:
        chosen = {_key(name) for name in _known_names(songs, validation)}
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
            "set fewer aside for validation"
        )
    return sides[0], sides[1]


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}/{_key(name)}".encode()).digest()


def _known_names(songs: Songs, names: Sequence[str]) -> list[str]:
    known = {_key(song.name) for song in songs}
    for name in names:
        if _key(name) not in known:
            close = difflib.get_close_matches(name, [song.name for song in songs], n=3)
            hint = f"; there is {', '.join(close)}" if close else ""
            raise SeparationError(f"there is no song {name} in {songs.source}{hint}")
    return list(names)


def musdb18_validation() -> list[str]:
    """The 14 songs of MUSDB18's training set that musdb sets aside for validation."""
    import yaml

    # importing musdb itself needs ffprobe
    package = importlib.util.find_spec("musdb").submodule_search_locations[0]
    text = (Path(package) / "configs" / "mus.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["validation_tracks"]
