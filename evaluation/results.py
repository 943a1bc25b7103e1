"""Runs on disk: a folder per method, with ``run.json`` and one file of scores per track.

RUN/run.json                 what was run, on what, with which versions
RUN/test/TRACK.json          museval's format, with some keys of ours; museval reads it too
RUN/audio/test/TRACK/*.wav   the estimates, where they were asked for
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spleeter_2.errors import SeparationError
from spleeter_2.files import write_text

from .over_mixture import OverMixture
from .scores import FRAMEWISE, SourceScores

FORMAT = 1
INFORMATION = "run.json"
WHOLE_TRACK = ("track SDR", "SI-SDR")
METRICS = (*FRAMEWISE, *WHOLE_TRACK, "over")  # dB, the last one a share in per cent
_COUNT = {"type": "integer", "minimum": 0}
_LEVEL = {"type": ["number", "null"]}
SCHEMA = {
    "type": "object",
    "required": ["targets", "museval_version", "spleeter_2"],
    "properties": {
        "targets": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "frames", "track"],
                "properties": {
                    "track": {
                        "type": "object",
                        "required": ["SDR", "SI-SDR", "over_mixture"],
                        "properties": {
                            "SDR": {"type": "number"},
                            "SI-SDR": _LEVEL,
                            "over_mixture": {
                                "type": "object",
                                "required": ["share", "bins", "over", "excess", "histogram"],
                            },
                        },
                    },
                    "frames": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["time", "duration", "metrics"],
                            "properties": {
                                "metrics": {"type": "object", "required": list(FRAMEWISE)}
                            },
                        },
                    },
                },
            },
        },
        "spleeter_2": {
            "type": "object",
            "required": ["format", "track", "subset", "samples", "sample_rate", "files"],
            "properties": {
                "format": {"const": FORMAT},
                "samples": _COUNT,
                "sample_rate": _COUNT,
                "files": {"type": "object", "additionalProperties": _COUNT},
                "remainder": _LEVEL,
                "seconds": {"type": "object", "additionalProperties": {"type": "number"}},
            },
        },
    },
}


@dataclass(frozen=True)
class TrackScores:
    """Scores of one track by one method.

    ``files``: names and sizes of the files it was scored on. ``remainder``: see
    ``tracks.TrackAudio``. ``seconds``: what separation and scoring took.
    """

    name: str
    subset: str
    samples: int
    sample_rate: int
    files: dict[str, int]
    remainder: float
    seconds: dict[str, float]
    sources: dict[str, SourceScores]

    def metric(self, source: str, metric: str) -> float:
        """One number of ``METRICS``; NaN where it is not defined."""
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
        """Frames without framewise scores, and all frames."""
        frames = next(iter(self.sources.values())).frames["SDR"]
        return int(np.isnan(frames).sum()), len(frames)


@dataclass(frozen=True)
class Run:
    """A folder of results and its ``run.json``."""

    folder: Path
    information: dict

    @property
    def name(self) -> str:
        """The method's short name."""
        return self.information["name"]

    @property
    def sources(self) -> tuple[str, ...]:
        """Of its set-up."""
        return tuple(self.information["identity"]["sources"])

    @property
    def tracks(self) -> list[tuple[str, str]]:
        """Subset and name of every track that belongs to the run, scored or not."""
        return [(track["subset"], track["name"]) for track in self.information["tracks"]]

    def path(self, subset: str, name: str) -> Path:
        """Where a track's scores stand."""
        return self.folder / subset / f"{name}.json"

    def audio(self, subset: str, name: str) -> Path:
        """Folder of a track's estimates, should they be kept."""
        return self.folder / "audio" / subset / name

    def has_audio(self, subset: str, name: str) -> bool:
        """Whether the estimates of all sources have been kept."""
        folder = self.audio(subset, name)
        return all((folder / f"{source}.wav").is_file() for source in self.sources)

    def scores(self) -> list[TrackScores]:
        """Scores of all tracks.

        Raises:
            SeparationError: a track has none: a mean over the others would not be the data set's.
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
        SeparationError: the folder holds none, or its ``run.json`` is damaged.
    """
    path = folder / INFORMATION
    if not path.is_file():
        raise SeparationError(f"{folder} holds no run: there is no {INFORMATION} in it")
    try:
        information = json.loads(path.read_text("utf-8"))
        run = Run(folder, information)
        if information["format"] != FORMAT or not run.name or not run.sources or not run.tracks:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SeparationError(f"{path} is damaged or of another version: run it again") from error
    return run


def find_runs(folders: list[Path]) -> list[Run]:
    """Runs of folders that hold one, or whose subfolders do.

    Raises:
        SeparationError: a folder holds none.
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
    """Check against museval's schema and ours, then write, whole or not at all.

    Raises:
        SeparationError: the folder cannot be written to.
    """
    import jsonschema
    from museval.aggregate import TrackStore

    store = TrackStore(track_name=scores.name)
    for source, values in scores.sources.items():
        store.add_target(source, values.frames)
        store.scores["targets"][-1]["track"] = {
            "SDR": values.sdr,
            "SI-SDR": _finite(values.si_sdr),
            "over_mixture": values.over_mixture.as_json(),
        }
    store.scores["spleeter_2"] = {
        "format": FORMAT,
        "track": scores.name,
        "subset": scores.subset,
        "samples": scores.samples,
        "sample_rate": scores.sample_rate,
        "files": scores.files,
        "remainder": _finite(scores.remainder),
        "seconds": {key: round(value, 3) for key, value in scores.seconds.items()},
    }
    store.validate()
    jsonschema.validate(store.scores, SCHEMA)
    write_text(path, store.json)


def read_scores(path: Path) -> TrackScores:
    """A track's scores.

    Raises:
        SeparationError: the file is damaged or not of ours.
    """
    import jsonschema

    try:
        content = json.loads(path.read_text("utf-8"))
        jsonschema.validate(content, SCHEMA)
        ours = content["spleeter_2"]
        return TrackScores(
            ours["track"],
            ours["subset"],
            ours["samples"],
            ours["sample_rate"],
            ours["files"],
            _number(ours["remainder"]),
            ours["seconds"],
            {target["name"]: _source(target) for target in content["targets"]},
        )
    except (OSError, ValueError, KeyError, TypeError, jsonschema.ValidationError) as error:
        raise SeparationError(
            f"{path} is damaged or not a file of scores: remove it and run again"
        ) from error


def _source(target: dict) -> SourceScores:
    frames = {
        metric: np.array([frame["metrics"][metric] for frame in target["frames"]], np.float64)
        for metric in FRAMEWISE
    }
    track = target["track"]
    over = OverMixture.of_json(track["over_mixture"])
    return SourceScores(frames, track["SDR"], _number(track["SI-SDR"]), over)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value
