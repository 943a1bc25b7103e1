"""The file of an ablation: a configuration, its variants and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from spleeter_2.config.loading import (
    anchored,
    complete,
    merge,
    parse_configuration,
)
from spleeter_2.config.validation import Options, parse, require
from spleeter_2.errors import SeparationError
from spleeter_2.files import read_json


class Plan(Options):
    """The JSON file of an ablation.

    Attributes:
        configuration: a configuration as for ``-p``.
        runs: changes of the configuration by name of the run; the first run is the reference.
        seeds: every run is trained once with each.
        panels: runs whose spectrograms are drawn side by side.
    """

    spleeter_2: int
    configuration: dict[str, Any]
    runs: dict[str, Any]
    seeds: tuple[int, ...] = (0,)
    panels: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        require(len(self.runs) > 0, "runs must name at least one")
        for name, changes in self.runs.items():
            plain = name.replace("_", "").replace("+", "")
            require(plain.isalnum(), f"runs: call {name!r} by letters, digits, _ and + alone")
            require(isinstance(changes, dict), f"runs.{name} must be an object, not {changes!r}")
        require(len(set(self.seeds)) == len(self.seeds) > 0, "seeds must be different numbers")
        for name in self.panels:
            require(name in self.runs, f"panels: there is no run {name!r}")


class TrainingSummary(msgspec.Struct):
    """The parts of a training's ``run.json`` that an ablation reads.

    Attributes:
        best: lowest validation loss.
        history: one object per epoch.
    """

    best: float
    step: int
    history: list[dict[str, float]]
    finished: bool = False


@dataclass(frozen=True)
class Variant:
    """One training: a run of the plan with one seed.

    Attributes:
        folder: of the ablation.
    """

    run: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Name of the variant's files and folders."""
        return f"{self.run}-{self.seed}"

    @property
    def configuration(self) -> Path:
        """The file of the configuration to train."""
        return self.folder / "configurations" / f"{self.name}.json"

    @property
    def training(self) -> Path:
        """The folder of the training."""
        return self.folder / "runs" / self.name

    def summary(self) -> TrainingSummary:
        """Read the training's ``run.json``.

        Raises:
            SeparationError, ValueError: there is none, or it is damaged.
        """
        # not msgspec.json, since a loss may be Infinity
        return msgspec.convert(read_json(self.training / "run.json", "summary"), TrainingSummary)

    @property
    def log(self) -> Path:
        """The file with the messages of the training."""
        return self.folder / "logs" / f"{self.name}.txt"


def read_plan(path: Path) -> Plan:
    """Read the file of an ablation and check the configuration of every run.

    Raises:
        SeparationError: the file or a configuration is not valid.
    """
    data = read_json(path, "configuration")
    try:
        plan = parse(Plan, data)
        for name in plan.runs:
            _check(plan, path, name)
    except SeparationError as error:
        raise SeparationError(f"{path}: {error}") from error
    return plan


def _check(plan: Plan, path: Path, run: str) -> None:
    """Raise SeparationError for an invalid configuration; name the run if its changes cause it."""
    fault = _fault(configured(plan, path, run, plan.seeds[0]))
    if fault:
        bare = replace(plan, runs={run: {}}, panels=())
        common = _fault(configured(bare, path, run, plan.seeds[0])) == fault
        raise SeparationError(f"{'configuration' if common else f'runs.{run}'}: {fault}")


def _fault(content: dict[str, Any]) -> str | None:
    try:
        parse_configuration(content)
    except SeparationError as error:
        return str(error)
    return None


def configured(plan: Plan, path: Path, run: str, seed: int) -> dict[str, Any]:
    """Complete configuration of a run with a seed."""
    path = path.resolve()
    base = {"spleeter_2": plan.spleeter_2, **plan.configuration}
    whole = merge(complete(base, path), anchored(plan.runs[run], path.parent))
    for key in ("weights", "card", "source"):  # they describe other weights
        whole.pop(key, None)
    changes = {"name": f"{run}-{seed}", "training": {"seed": seed}}
    return merge({"training": {}, **whole}, changes)
