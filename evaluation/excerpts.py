"""Seconds of a track with the estimates that runs kept, to look at and to listen to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from spleeter_2.errors import SeparationError

from .compare import Comparison
from .results import Run, TrackScores
from .tracks import TrackAudio, find_tracks, load_track

SECONDS = 8


@dataclass(frozen=True)
class Excerpt:
    """Some seconds of a track.

    Attributes:
        start: seconds.
        song: mixture and references.
        estimates: by a run's label and by source, ``[S, C]``.
    """

    track: str
    start: float
    song: TrackAudio
    estimates: dict[str, dict[str, np.ndarray]]

    def panels(self, source: str) -> list[tuple[str, np.ndarray]]:
        """Title and waveform of the mixture, of a source's reference and of its estimates."""
        panels = [
            ("mixture", self.song.mixture),
            (f"{source}: reference", self.song.references[source]),
        ]
        for label, estimates in self.estimates.items():
            panels.append((f"{source}: {label}", estimates[source]))
        return panels


def choose_excerpts(comparison: Comparison, count: int) -> tuple[list[Excerpt], str]:
    """Choose tracks by the SDR of the first source: the median one, then the lowest ones.

    Returns:
        The excerpts, and a sentence about those that cannot be shown, or "".
    """
    kept = {
        label: run
        for label, run in zip(comparison.labels, comparison.runs, strict=True)
        if run.name != "mixture" and all(run.has_audio(*track) for track in run.tracks)
    }
    if not kept or not count:
        return [], "No run has kept its estimates: evaluate with --save-audio to hear and see them."
    without = [label for label in comparison.labels if label not in (*kept, "mixture")]
    missing = f"{', '.join(without)} kept no estimates: see --save-audio." if without else ""
    levels = comparison.numbers[0][comparison.sources[0], "track SDR"]
    found = []
    for index in worth_showing(levels.to_numpy())[:count]:
        try:
            found.append(cut_excerpt(comparison, comparison.scores[0][index], kept))
        except SeparationError as error:
            missing = f"{missing} {error}."
    return found, missing.strip()


def worth_showing(levels: np.ndarray) -> list[int]:
    """Indices of tracks: the one of the median level, then from the lowest level on.

    Args:
        levels: in dB, ``[tracks]``; tracks whose level is NaN come last.
    """
    order = np.argsort(levels)  # NaN comes last
    median = np.count_nonzero(~np.isnan(levels)) // 2
    return list(dict.fromkeys([order[median], *order]))


def cut_excerpt(comparison: Comparison, scores: TrackScores, kept: dict[str, Run]) -> Excerpt:
    """Cut the seconds of a track in which the first source is loudest.

    Args:
        kept: runs that kept their estimates, by label.

    Raises:
        SeparationError: the track or an estimate cannot be read.
    """
    data = Path(comparison.runs[0].information.data)
    (track,) = find_tracks(data, scores.subset, [scores.name])
    song = load_track(track, comparison.sources)
    rate = song.sample_rate
    energy = np.sum(np.square(song.references[comparison.sources[0]], dtype=np.float64), axis=1)
    summed = np.concatenate([[0.0], np.cumsum(energy)])
    starts = np.arange(0, max(len(energy) - SECONDS * rate, 1), rate)
    ends = np.minimum(starts + SECONDS * rate, len(energy))
    start = int(starts[np.argmax(summed[ends] - summed[starts])])
    part = slice(start, min(start + SECONDS * rate, len(energy)))
    references = {source: waveform[part] for source, waveform in song.references.items()}
    estimates = {
        label: {
            source: _read(run.audio(scores.subset, scores.name) / f"{source}.wav", part)
            for source in comparison.sources
        }
        for label, run in kept.items()
    }
    cut = TrackAudio(song.mixture[part], references, rate)
    return Excerpt(scores.name, start / rate, cut, estimates)


def _read(path: Path, part: slice) -> np.ndarray:
    try:
        waveform, _ = soundfile.read(path, part.stop - part.start, part.start, always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise SeparationError(f"{path} cannot be read") from error
    if len(waveform) != part.stop - part.start:
        raise SeparationError(f"{path} is shorter than its song")
    return waveform
