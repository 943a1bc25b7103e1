"""Tracks to score: songs of a data set, loaded as waveforms.

Samples equal musdb's: 16 bits. A file that cannot be read or a missing stem is an error of its
track; musdb opens every file to list the tracks, and sums whatever stems it finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from spleeter_2.audio.ffmpeg import require_system_programs
from spleeter_2.audio.reader import AudioReader
from spleeter_2.data.songs import STREAMS, Song, find_songs, songs_named
from spleeter_2.errors import SeparationError

from .scores import SET_UPS, regroup


@dataclass(frozen=True)
class TrackAudio:
    """Waveforms float32 ``[S, C]`` of the mixture and of each source; ``sample_rate`` in Hz."""

    mixture: np.ndarray
    references: dict[str, np.ndarray]
    sample_rate: int

    @property
    def remainder(self) -> float:
        """Level of mixture minus sources relative to the mixture, in dB."""
        rest = self.mixture - sum(self.references.values())
        energies = [np.sum(np.square(part, dtype=np.float64)) for part in (rest, self.mixture)]
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(10 * np.log10(energies[0] / energies[1]))


def find_tracks(root: Path, subset: str = "test", names: Sequence[str] = ()) -> list[Song]:
    """Find the tracks of a data set, sorted by name.

    Args:
        subset: "train" or "test"; songs of a folder without subsets count as "test".
        names: tracks to choose; empty for all.

    Raises:
        SeparationError: no songs, an unknown name, or two tracks of one name.
    """
    if not root.is_dir():
        raise SeparationError(f"there is no folder {root}")
    songs = find_songs(root, subset)
    first: dict[str, Song] = {}
    for song in songs:
        other = first.setdefault(song.key, song)
        if other is not song:
            raise SeparationError(
                f"two tracks have the name {song.name}: {other.path} and {song.path}; "
                "rename or remove one"
            )
    chosen = songs_named(songs, names) if names else songs
    return [replace(song, subset=song.subset or "test") for song in chosen]


def file_sizes(track: Song) -> dict[str, int]:
    """Names and sizes in bytes of a track's files: they show whether it has changed."""
    paths = {file.path for file in track.stems.values()}
    return {path.name: path.stat().st_size for path in sorted(paths)}


def track_seconds(track: Song) -> float:
    """Duration in seconds that the mixture's container declares; 0 if it cannot be read."""
    try:
        with AudioReader(track.stems["mixture"].path) as reader:
            return reader.seconds or 0.0
    except (SeparationError, KeyError):
        return 0.0


def load_track(track: Song, sources: tuple[str, ...]) -> TrackAudio:
    """Read a track's mixture and sources.

    Raises:
        SeparationError: a stem is missing or damaged, or differs from the mixture in length,
            channels or sample rate.
    """
    if track.fault:
        raise SeparationError(f"{track.path}: {track.fault}")
    read = _read_stem_file if track.path.is_file() else _read_folder
    stems, rate = read(track, sources)
    mixture = stems.pop("mixture")
    for name, stem in stems.items():
        if stem.shape != mixture.shape:
            raise SeparationError(
                f"{track.name}: {name} has {stem.shape[0]} samples in {stem.shape[1]} "
                f"channel(s), the mixture {mixture.shape[0]} in {mixture.shape[1]}: "
                "cut them to the same length"
            )
    return TrackAudio(mixture, regroup(stems, sources), rate)


def _read_stem_file(track: Song, sources: tuple[str, ...]) -> tuple[dict[str, np.ndarray], int]:
    """All streams of a ``.stem.mp4``, and their sample rate."""
    stempeg = import_stempeg()
    path = track.path
    try:
        info = stempeg.Info(str(path))
        declared = info.duration(0)
        waveforms, rate = stempeg.read_stems(
            str(path), info=info, dtype=np.float32, always_3d=True, ffmpeg_format="s16le"
        )
    # for a broken file stempeg raises Warning, AttributeError or ffmpeg's Error
    except Exception as error:
        raise SeparationError(
            f"{path} cannot be read as a stem file: it is damaged, or its streams differ"
        ) from error
    if len(waveforms) != len(STREAMS) or not waveforms.shape[1]:
        raise SeparationError(
            f"{path} has {len(waveforms)} audio stream(s) of {waveforms.shape[1]} "
            f"samples; a stem file has {len(STREAMS)}: {', '.join(STREAMS)}"
        )
    if waveforms.shape[1] < (declared - 0.1) * rate:  # stempeg ignores that ffmpeg stopped early
        raise SeparationError(
            f"{path} declares a duration of {declared:.1f} s, but only "
            f"{waveforms.shape[1] / rate:.1f} s could be decoded: it is cut short or damaged"
        )
    return dict(zip(STREAMS, waveforms, strict=True)), int(rate)


def _read_folder(track: Song, sources: tuple[str, ...]) -> tuple[dict[str, np.ndarray], int]:
    """The mixture and the stems that give the sources, and their sample rate."""
    found = track.stems
    in_four = not found.keys().isdisjoint(("drums", "bass", "other"))
    names = ("mixture", *(SET_UPS[4] if in_four and not set(sources) <= set(found) else sources))
    missing = [name for name in names if name not in found]
    if missing:
        raise SeparationError(
            f"{track.path} lacks {', '.join(missing)}: a song has the files mixture and "
            f"{', '.join(sources)}"
        )
    stems, rates = {}, {}
    for name in names:
        with AudioReader(found[name].path) as reader:
            stems[name] = np.concatenate(list(reader.blocks()))
            if reader.faults:
                raise SeparationError(reader.faults[0])
            rates[name] = reader.sample_rate
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{name} {rate} Hz" for name, rate in rates.items())
        raise SeparationError(f"{track.path}: sample rates differ: {listed}")
    return stems, rates["mixture"]


def import_stempeg() -> ModuleType:
    """Import stempeg, which reads stem files; museval imports it too.

    Raises:
        SeparationError: ffmpeg or ffprobe is missing or broken.
    """
    require_system_programs("evaluation, by museval and stempeg,")
    import stempeg

    return stempeg
