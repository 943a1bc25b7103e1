"""Results on disk: a folder per method, with ``run.json`` and one file of scores per track.

RUN/run.json                 what was run, on which data, with which versions
RUN/test/TRACK.json          museval's format with keys of ours; museval reads it too
RUN/audio/test/TRACK/*.wav   the estimates, with --save-audio
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from spleeter_2.errors import SeparationError
from spleeter_2.files import read_json, write_text

from .over_mixture import Counts, OverMixture
from .scores import FRAMEWISE, SourceScores

FORMAT = 1  # of run.json
SCORES_FORMAT = 2  # of a file of scores; in 1, a silent source had a track SDR
INFORMATION = "run.json"
WHOLE_TRACK = ("track SDR", "SI-SDR")
METRICS = (*FRAMEWISE, *WHOLE_TRACK, "over")  # dB; "over" is a share in per cent

# one of scores.SCORERS; older files do not name it
ScorerName = Literal["spleeter_2", "museval"]
OLDER_SCORER: ScorerName = "museval"
Count = Annotated[int, msgspec.Meta(ge=0)]


class Identity(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that determines a method's estimates.

    Attributes:
        configuration: SHA-256 of the configuration as JSON.
        weights: SHA-256 of the checkpoint's files; None for anchors and upstream's models.
    """

    descriptor: str
    sources: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    mwf: bool
    overlap: float | None
    configuration: str = ""
    weights: str | None = None
    shifts: int = 1

    def same_estimates(self, other: Identity) -> bool:
        """Return True if the estimates are equal: weights may have moved to another place."""
        if self.weights:
            other = msgspec.structs.replace(other, descriptor=self.descriptor)
        return self == other


class TrackName(msgspec.Struct, frozen=True):
    """A track of a data set."""

    subset: str
    name: str


class Information(msgspec.Struct, frozen=True, kw_only=True):
    """The file ``run.json``.

    Attributes:
        name: of the method, short.
        configuration: of the model, as JSON; empty for an anchor.
        data: path of the data set.
        tracks: that belong to the run, scored or not.
        command: that repeats the run.
        scorer: that computes the framewise metrics of all tracks.
    """

    format: Literal[1] = FORMAT
    name: Annotated[str, msgspec.Meta(min_length=1)]
    identity: Identity
    configuration: dict[str, Any] = {}
    subset: str
    data: str
    tracks: Annotated[tuple[TrackName, ...], msgspec.Meta(min_length=1)]
    command: str
    started: str
    versions: dict[str, str]
    hardware: dict[str, Any]
    scorer: ScorerName = OLDER_SCORER


class Metrics(msgspec.Struct, rename="upper"):
    """Framewise metrics in dB; NaN where BSSEval has none."""

    sdr: float
    sir: float
    sar: float
    isr: float


class Frame(msgspec.Struct):
    """A frame of museval's, in seconds."""

    time: float
    duration: float
    metrics: Metrics


class WholeTrack(msgspec.Struct, rename={"sdr": "SDR", "si_sdr": "SI-SDR"}):
    """Our key of a target: scores of the whole track in dB; None where not defined."""

    sdr: float | None
    si_sdr: float | None
    over_mixture: Counts


class Target(msgspec.Struct):
    """The scores of one source."""

    name: str
    frames: list[Frame]
    track: WholeTrack


class TrackInformation(msgspec.Struct):
    """Our key of a file of scores; for its attributes see ``TrackScores``."""

    format: Literal[2]
    track: str
    subset: str
    samples: Count
    sample_rate: Count
    files: dict[str, Count]
    remainder: float | None
    seconds: dict[str, float]
    scorer: ScorerName = OLDER_SCORER


class TrackFile(msgspec.Struct):
    """A file of scores; keys that only museval reads are ignored."""

    targets: Annotated[list[Target], msgspec.Meta(min_length=1)]
    museval_version: str
    spleeter_2: TrackInformation


@dataclass(frozen=True)
class TrackScores:
    """Scores of one track by one method.

    Attributes:
        samples: length of the track.
        files: names and sizes in bytes of the files of the track.
        remainder: level of mixture minus references against the mixture, dB.
        seconds: wall time of ``separation`` and ``scoring``.
        scorer: that computed the framewise metrics.
    """

    name: str
    subset: str
    samples: int
    sample_rate: int
    files: dict[str, int]
    remainder: float
    seconds: dict[str, float]
    sources: dict[str, SourceScores]
    scorer: ScorerName

    def metric(self, source: str, metric: str) -> float:
        """One of ``METRICS``, framewise ones as their median; NaN where it is not defined."""
        scores = self.sources[source]
        if metric in FRAMEWISE:
            frames = scores.frames[metric]
            frames = frames[~np.isnan(frames)]
            return float(np.median(frames)) if len(frames) else math.nan
        if metric == "over":
            return 100 * scores.over_mixture.share
        return scores.sdr if metric == "track SDR" else scores.si_sdr

    @property
    def nb_frames(self) -> tuple[int, int]:
        """Number of frames without framewise scores, and of all frames."""
        frames = next(iter(self.sources.values())).frames["SDR"]
        return int(np.isnan(frames).sum()), len(frames)


@dataclass(frozen=True)
class Run:
    """A folder of results and its ``run.json``."""

    folder: Path
    information: Information

    @property
    def name(self) -> str:
        """The method's short name."""
        return self.information.name

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources that are scored."""
        return self.information.identity.sources

    @property
    def tracks(self) -> list[tuple[str, str]]:
        """Subset and name of every track that belongs to the run, scored or not."""
        return [(track.subset, track.name) for track in self.information.tracks]

    def path(self, subset: str, name: str) -> Path:
        """The file of a track's scores."""
        return self.folder / subset / f"{name}.json"

    def audio(self, subset: str, name: str) -> Path:
        """The folder of a track's estimates, which exists with --save-audio only."""
        return self.folder / "audio" / subset / name

    def has_audio(self, subset: str, name: str) -> bool:
        """Return True if the estimates of all sources have been kept."""
        folder = self.audio(subset, name)
        return all((folder / f"{source}.wav").is_file() for source in self.sources)

    def scores(self) -> list[TrackScores]:
        """Read the scores of all tracks.

        Raises:
            SeparationError: a track has no scores; a mean without it would be of other data.
        """
        missing = [name for subset, name in self.tracks if not self.path(subset, name).is_file()]
        if missing:
            raise SeparationError(
                f"{self.folder} lacks the scores of {len(missing)} of {len(self.tracks)} tracks "
                f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): run it again "
                "to complete it"
            )
        return [read_scores(self.path(subset, name)) for subset, name in self.tracks]


def read_run(folder: Path) -> Run:
    """Open a run.

    Raises:
        SeparationError: the folder holds no run, or its ``run.json`` is damaged.
    """
    path = folder / INFORMATION
    if not path.is_file():
        raise SeparationError(f"{folder} holds no run: there is no {INFORMATION} in it")
    try:
        return Run(folder, msgspec.json.decode(path.read_bytes(), type=Information))
    except (OSError, ValueError) as error:
        raise SeparationError(f"{path} is damaged or of another version: run it again") from error


def find_runs(folders: list[Path]) -> list[Run]:
    """Open the runs of folders: each is a run, or holds runs.

    Raises:
        SeparationError: a folder is neither.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        if not folder.is_dir():
            raise SeparationError(f"there is no folder {folder}")
        try:
            inner = [folder] if (folder / INFORMATION).is_file() else sorted(folder.iterdir())
            inner = [path for path in inner if (path / INFORMATION).is_file()]
        except OSError as error:
            raise SeparationError(f"cannot read {error.filename}: {error.strerror}") from error
        if not inner:
            raise SeparationError(f"there are no results in {folder}: 'run' makes them")
        for path in inner:
            found.setdefault(path.resolve(), read_run(path))
    return list(found.values())


def write_scores(path: Path, scores: TrackScores) -> None:
    """Write a file of scores atomically, after a check against museval's schema.

    Raises:
        SeparationError: the file cannot be written.
    """
    from museval.aggregate import TrackStore

    store = TrackStore(track_name=scores.name)
    for source, values in scores.sources.items():
        store.add_target(source, values.frames)
        store.scores["targets"][-1]["track"] = msgspec.to_builtins(
            WholeTrack(_finite(values.sdr), _finite(values.si_sdr), values.over_mixture.counts())
        )
    store.scores["spleeter_2"] = msgspec.to_builtins(
        TrackInformation(
            format=SCORES_FORMAT,
            track=scores.name,
            subset=scores.subset,
            samples=scores.samples,
            sample_rate=scores.sample_rate,
            files=scores.files,
            remainder=_finite(scores.remainder),
            seconds={key: round(value, 3) for key, value in scores.seconds.items()},
            scorer=scores.scorer,
        )
    )
    store.validate()
    write_text(path, store.json)


def read_scores(path: Path) -> TrackScores:
    """Read a file of scores.

    Raises:
        SeparationError: the file is damaged, of an older version, or holds something else.
    """
    try:
        data = read_json(path, "scores")  # not msgspec.json, since museval writes NaN
        if not _is_older(data):
            return _track_scores(msgspec.convert(data, TrackFile))
    except (SeparationError, ValueError) as error:
        raise SeparationError(
            f"{path} is damaged or not a file of scores: remove it and run again"
        ) from error
    raise SeparationError(
        f"{path} was written by an older version: run the evaluation again, which scores its "
        "track again"
    )


def _is_older(data: dict[str, Any]) -> bool:
    ours = data.get("spleeter_2")
    return isinstance(ours, dict) and ours.get("format") in range(1, SCORES_FORMAT)


def _track_scores(content: TrackFile) -> TrackScores:
    ours = content.spleeter_2
    return TrackScores(
        name=ours.track,
        subset=ours.subset,
        samples=ours.samples,
        sample_rate=ours.sample_rate,
        files=ours.files,
        remainder=_number(ours.remainder),
        seconds=ours.seconds,
        sources={target.name: _source(target) for target in content.targets},
        scorer=ours.scorer,
    )


def _source(target: Target) -> SourceScores:
    frames = {
        metric: np.array([getattr(frame.metrics, metric.lower()) for frame in target.frames])
        for metric in FRAMEWISE
    }
    track = target.track
    over = OverMixture.of_counts(track.over_mixture)
    return SourceScores(frames, _number(track.sdr), _number(track.si_sdr), over)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
