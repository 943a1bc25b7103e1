"""Some seconds of a track, with the estimates that runs have kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from spleeter_2.errors import SeparationError

from .compare import Comparison
from .results import Run
from .tables import values
from .tracks import TrackAudio, find_tracks, load_track

SECONDS = 8


@dataclass(frozen=True)
class Excerpt:
    """Some seconds of a track: mixture, references, and estimates of the runs that kept them."""

    track: str
    start: float
    song: TrackAudio
    estimates: dict[str, dict[str, np.ndarray]]  # run's label -> source -> [S, C]


def choose_excerpts(comparison: Comparison, count: int) -> tuple[list[Excerpt], str]:
    """The tracks with the median and the lowest SDR of the first source, and so on; and what to
    say if some cannot be shown."""
    kept = [
        (label, run)
        for label, run in zip(comparison.labels, comparison.runs, strict=True)
        if run.name != "mixture" and all(run.has_audio(*track) for track in run.tracks)
    ]
    if not kept or not count:
        return [], "No run has kept its estimates: evaluate with --save-audio to hear and see them."
    without = [label for label in comparison.labels if label not in (*dict(kept), "mixture")]
    missing = f"{', '.join(without)} kept no estimates: see --save-audio." if without else ""
    scores = comparison.scores[0]
    levels = values(scores, comparison.sources[0], "track SDR")
    order = np.argsort(levels)
    ranks = dict.fromkeys([len(order) // 2, *range(len(order))])
    found = []
    for rank in list(ranks)[:count]:
        track = scores[order[rank]]
        try:
            found.append(cut_excerpt(track.subset, track.name, comparison, kept))
        except SeparationError as error:
            missing = f"{missing} {error}."
    return found, missing.strip()


def cut_excerpt(
    subset: str, name: str, comparison: Comparison, kept: Sequence[tuple[str, Run]]
) -> Excerpt:
    """The loudest seconds of the first source."""
    data = Path(comparison.runs[0].information["data"])
    (track,) = find_tracks(data, subset, [name])
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
            source: _read(run.audio(subset, name) / f"{source}.wav", part)
            for source in comparison.sources
        }
        for label, run in kept
    }
    return Excerpt(name, start / rate, TrackAudio(song.mixture[part], references, rate), estimates)


def _read(path: Path, part: slice) -> np.ndarray:
    try:
        waveform, _ = soundfile.read(path, part.stop - part.start, part.start, always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise SeparationError(f"{path} cannot be read") from error
    if len(waveform) != part.stop - part.start:
        raise SeparationError(f"{path} is shorter than its song")
    return waveform
