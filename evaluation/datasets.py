"""Data sets: MUSDB18 (``.stem.mp4``), MUSDB18-HQ (WAV), or a plain folder of songs.

    MUSDB18/test/SONG.stem.mp4
    MUSDB18-HQ/test/SONG/{mixture,vocals,drums,bass,other}.wav
    FOLDER/SONG/{mixture,vocals,accompaniment}.EXT     any audio, also with the four stems

Samples are those that musdb gives: 16 bits. Unlike musdb, which opens every file to list them and
sums whatever stems it finds, one bad file here is one bad track, and a missing stem is an error.
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from spleeter_2.audio.reader import SUFFIXES, AudioReader
from spleeter_2.errors import SeparationError

from .scores import regroup

STEM_FILE = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")  # of a .stem.mp4, as in musdb
SUBSETS = ("train", "test")
STEMS = ("vocals", "drums", "bass", "other", "accompaniment")


@dataclass(frozen=True)
class Song:
    """Waveforms float32 ``[S, C]`` of a track: the mixture, and one per source; rate in Hz."""

    mixture: np.ndarray
    references: dict[str, np.ndarray]
    sample_rate: int

    @property
    def remainder(self) -> float:
        """Level of mixture minus sources against the mixture's, in dB: how far the mixture is
        from being their sum."""
        rest = self.mixture - sum(self.references.values())
        energies = [np.sum(np.square(part, dtype=np.float64)) for part in (rest, self.mixture)]
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(10 * np.log10(energies[0] / energies[1]))


@dataclass(frozen=True)
class Track:
    """A song of a data set: a ``.stem.mp4`` or a folder of audio files."""

    name: str
    subset: str
    path: Path

    def files(self) -> dict[str, int]:
        """Names and sizes in bytes: they tell whether a track has changed."""
        paths = [self.path] if self.path.is_file() else sorted(self._found().values())
        return {path.name: path.stat().st_size for path in paths}

    def seconds(self) -> float:
        """Duration as far as the mixture's container tells; 0 where it does not."""
        try:
            path = self.path if self.path.is_file() else self._found()["mixture"]
            with AudioReader(path) as reader:
                return reader.seconds or 0.0
        except (SeparationError, KeyError):
            return 0.0

    def load(self, sources: tuple[str, ...]) -> Song:
        """Read the track.

        Raises:
            SeparationError: a stem is missing, damaged, or unlike the mixture in length, channels
                or sample rate.
        """
        stems, rate = self._read_streams() if self.path.is_file() else self._read_files(sources)
        mixture = stems.pop("mixture")
        for name, stem in stems.items():
            if stem.shape != mixture.shape:
                raise SeparationError(
                    f"{self.name}: {name} has {stem.shape[0]} samples in {stem.shape[1]} "
                    f"channel(s), the mixture {mixture.shape[0]} in {mixture.shape[1]}: "
                    "cut them alike"
                )
        return Song(mixture, regroup(stems, sources), rate)

    def _read_streams(self) -> tuple[dict[str, np.ndarray], int]:
        stempeg = import_stempeg()
        try:
            info = stempeg.Info(str(self.path))
            declared = info.duration(0)
            waveforms, rate = stempeg.read_stems(
                str(self.path), info=info, dtype=np.float32, always_3d=True, ffmpeg_format="s16le"
            )
        # stempeg raises Warning, AttributeError, ffmpeg's Error, each for a broken file
        except Exception as error:
            raise SeparationError(
                f"{self.path} cannot be read as a stem file: it is damaged, or its streams differ"
            ) from error
        if len(waveforms) != len(STREAMS) or not waveforms.shape[1]:
            raise SeparationError(
                f"{self.path} has {len(waveforms)} audio stream(s) of {waveforms.shape[1]} "
                f"samples; a stem file has {len(STREAMS)}: {', '.join(STREAMS)}"
            )
        if waveforms.shape[1] < (declared - 0.1) * rate:  # stempeg takes what ffmpeg could decode
            raise SeparationError(
                f"{self.path} says it lasts {declared:.1f} s, but only "
                f"{waveforms.shape[1] / rate:.1f} s could be decoded: it is cut short or damaged"
            )
        return dict(zip(STREAMS, waveforms, strict=True)), int(rate)

    def _read_files(self, sources: tuple[str, ...]) -> tuple[dict[str, np.ndarray], int]:
        found = self._found()
        in_four = not found.keys().isdisjoint(("drums", "bass", "other"))
        whole = STEMS[:-1] if in_four and not set(sources) <= set(found) else sources
        missing = [name for name in ("mixture", *whole) if name not in found]
        if missing:
            raise SeparationError(
                f"{self.path} lacks {', '.join(missing)}: a song has the files mixture and "
                f"{', '.join(sources)}"
            )
        stems, rates = {}, {}
        for name in ("mixture", *whole):
            with AudioReader(found[name]) as reader:
                stems[name] = np.concatenate(list(reader.blocks()))
                if reader.notes:  # damaged, cut short, or mixed down
                    raise SeparationError(reader.notes[0])
                rates[name] = reader.sample_rate
        if len(set(rates.values())) > 1:
            told = ", ".join(f"{name} {rate} Hz" for name, rate in rates.items())
            raise SeparationError(f"{self.path}: sample rates differ: {told}")
        return stems, rates["mixture"]

    def _found(self) -> dict[str, Path]:
        """Audio files of the folder by the stem that they hold."""
        found: dict[str, Path] = {}
        for path in sorted(self.path.iterdir()):
            name = path.stem.casefold()
            if name in ("mixture", *STEMS) and path.suffix.lower() in SUFFIXES:
                if name in found:
                    raise SeparationError(
                        f"{self.path} has {found[name].name} and {path.name}: keep one of them"
                    )
                found[name] = path
        return found


def find_tracks(root: Path, subset: str = "test", names: Sequence[str] = ()) -> list[Track]:
    """The tracks of a data set, sorted by name.

    Args:
        subset: "train" or "test"; a plain folder has none, and its songs count as "test".
        names: the tracks wanted; all when empty.

    Raises:
        SeparationError: no songs there; a name that is unknown, or that two tracks share.
    """
    if subset not in SUBSETS:
        raise SeparationError(f"--subset must be train or test, not {subset}")
    if not root.is_dir():
        raise SeparationError(f"there is no folder {root}")
    present = [name for name in SUBSETS if (root / name).is_dir()]
    if present and subset not in present:
        raise SeparationError(f"{root} has no folder {subset}, but {present[0]}: see --subset")
    try:
        tracks = _tracks(root / subset, subset) if present else _tracks(root, "test")
    except OSError as error:
        raise SeparationError(f"cannot read {error.filename}: {error.strerror}") from error
    if not tracks:
        raise SeparationError(
            f"there are no songs in {root}: expected {subset}/SONG{STEM_FILE} (MUSDB18), "
            f"{subset}/SONG/mixture.wav (MUSDB18-HQ), or SONG/mixture.wav with SONG/vocals.wav "
            "and SONG/accompaniment.wav"
        )
    _check_duplicates(tracks)
    return _chosen(tracks, names)


def _tracks(folder: Path, subset: str) -> list[Track]:
    tracks = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and path.name.lower().endswith(STEM_FILE):
            tracks.append(Track(path.name[: -len(STEM_FILE)], subset, path))
        elif path.is_dir() and _holds_stems(path):
            tracks.append(Track(path.name, subset, path))
    return tracks


def _holds_stems(folder: Path) -> bool:
    """Whether it looks like a song: a stem may be missing, but some are there."""
    names = {os.path.splitext(name)[0].casefold() for name in os.listdir(folder)}
    return not names.isdisjoint(("mixture", *STEMS))


def _key(name: str) -> str:
    """What two names share that a file system or a reader may take for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _check_duplicates(tracks: list[Track]) -> None:
    owners: dict[str, Track] = {}
    for track in tracks:
        other = owners.setdefault(_key(track.name), track)
        if other is not track:
            raise SeparationError(
                f"two tracks have the name {track.name}: {other.path} and {track.path}; "
                "rename or remove one"
            )


def _chosen(tracks: list[Track], names: Sequence[str]) -> list[Track]:
    known = {_key(track.name): track for track in tracks}
    for name in names:
        if _key(name) not in known:
            close = difflib.get_close_matches(name, [track.name for track in tracks], n=3)
            hint = f"; there is {', '.join(close)}" if close else ""
            raise SeparationError(f"there is no track {name}{hint}")
    wanted = {_key(name) for name in names} or set(known)
    return [track for track in tracks if _key(track.name) in wanted]


def import_stempeg() -> ModuleType:
    """Import stempeg, which reads stem files, and which museval imports in any case.

    Raises:
        SeparationError: it needs ffmpeg and ffprobe on the path.
    """
    try:
        import stempeg
    except RuntimeError as error:
        raise SeparationError(
            "evaluation uses museval and stempeg, which need ffmpeg and ffprobe: install them "
            "(apt-get install ffmpeg)"
        ) from error
    return stempeg
