"""An ablation's file: a configuration, its variants and their seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from spleeter_2.config.loading import (
    anchored,
    complete,
    merge,
    parse_configuration,
    read_json,
)
from spleeter_2.config.validation import Options, parse, require
from spleeter_2.errors import SeparationError


class Plan(Options):
    """An ablation's JSON file.

    ``configuration``: of the proposal, a configuration as ``-p`` takes it. ``runs``: by name, what
    is laid over it; the first is what the others are compared with. ``seeds``: each run is trained
    once with each. ``panels``: names of runs whose spectrograms are drawn side by side.
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


@dataclass(frozen=True)
class Variant:
    """One training: a run of the plan with one of the seeds."""

    run: str
    seed: int
    folder: Path  # of the whole ablation

    @property
    def name(self) -> str:
        return f"{self.run}-{self.seed}"

    @property
    def configuration(self) -> Path:
        return self.folder / "configurations" / f"{self.name}.json"

    @property
    def training(self) -> Path:
        return self.folder / "runs" / self.name

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.txt"


def read_plan(path: Path) -> Plan:
    """Read an ablation's file; every one of its configurations is checked.

    Raises:
        SeparationError: one sentence that names the file and the fault.
    """
    data = read_json(path)
    try:
        plan = parse(Plan, data)
        for name in plan.runs:
            _check(plan, path, name)
    except SeparationError as error:
        raise SeparationError(f"{path}: {error}") from error
    return plan


def _check(plan: Plan, path: Path, run: str) -> None:
    """Refuse a run whose configuration is none, and say whether that is the run's own fault."""
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
    """The complete configuration of a run with a seed."""
    path = path.resolve()
    base = {"spleeter_2": plan.spleeter_2, **plan.configuration}
    whole = merge(complete(base, path), anchored(plan.runs[run], path.parent))
    for key in ("weights", "card", "source"):  # they speak of other weights
        whole.pop(key, None)
    changes = {"name": f"{run}-{seed}", "training": {"seed": seed}}
    return merge({"training": {}, **whole}, changes)
