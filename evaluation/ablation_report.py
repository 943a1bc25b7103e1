"""Results of an ablation: ``results.json``, tables in Markdown, plots."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from spleeter_2.files import atomic_file, write_json, write_text

from . import plots
from .ablation_plan import Plan, Variant
from .compare import compare
from .excerpts import choose_excerpts
from .results import Run
from .scores import FRAMEWISE
from .tables import OVERALL, UNITS, as_markdown, formatted, medians


class Outcome(msgspec.Struct):
    """One training.

    Attributes:
        history: one object per epoch.
        scores: medians over tracks by source and metric; NaN where not defined.
    """

    val_loss: float
    steps: int
    history: list[dict[str, float]]
    scores: dict[str, dict[str, float]]


class RunResults(msgspec.Struct):
    """One run of the plan with all of its seeds."""

    changes: dict[str, Any]
    seeds: dict[int, Outcome]


class Results(msgspec.Struct):
    """The file ``results.json``, which has null for NaN."""

    command: str
    versions: dict[str, str]
    hardware: dict[str, Any]
    description: str
    tracks: list[str]
    runs: dict[str, RunResults]


def write_results(plan: Plan, runs: Mapping[Variant, Run], facts: Mapping[str, Any]) -> Path:
    """Write tables and plots into the folder of the ablation.

    Args:
        runs: complete evaluations of all variants.
        facts: command, versions and hardware.

    Returns:
        The Markdown file.
    """
    folder = next(iter(runs)).folder
    results = Results(
        **facts,
        description=plan.description,
        tracks=[name for _, name in next(iter(runs.values())).tracks],
        runs={
            name: RunResults(
                changes, {v.seed: _outcome(v, run) for v, run in runs.items() if v.run == name}
            )
            for name, changes in plan.runs.items()
        },
    )
    write_json(folder / "results.json", _without_nan(msgspec.to_builtins(results)))
    curves = {
        name: [outcome.history for outcome in found.seeds.values()]
        for name, found in results.runs.items()
    }
    _write_picture(folder / "val_loss.png", plots.histories(curves))
    pictures = _write_spectrograms(plan, runs, folder)
    page = folder / "ablation.md"
    write_text(page, as_page(results, ["val_loss.png", *pictures]))
    return page


def _without_nan(value: Any) -> Any:
    """Copy of a tree of JSON with null for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _outcome(variant: Variant, run: Run) -> Outcome:
    training = variant.summary()
    found = medians(run.scores())
    scores = {source: found[source].to_dict() for source in run.sources}
    return Outcome(training.best, training.step, training.history, scores)


def as_page(results: Results, pictures: Sequence[str]) -> str:
    """The Markdown page: the scores of all runs, and the differences of the first run to others."""
    scores = _scores(results)
    first, *others = results.runs
    nb_seeds = len(scores.loc[first])
    rows = [{"run": name, **_over_seeds(scores.loc[name])} for name in results.runs]
    parts = [
        "# Ablation",
        results.description,
        f"Scored on {', '.join(results.tracks)}. Medians over frames, then over tracks; mean "
        f"(standard deviation) over {nb_seeds} seed(s). val_loss is each run's own loss: compare "
        "it only among runs with the same loss.",
        as_markdown(pd.DataFrame(rows)),
    ]
    if others:
        metrics = scores.drop(columns="val_loss")
        rows = [
            {"run": name, **_over_seeds(metrics.loc[first] - metrics.loc[name], "+")}
            for name in others
        ]
        parts += [
            f"## {first} minus other runs",
            "Mean (standard deviation) of the differences seed by seed. A mean within two standard "
            "deviations of zero is no finding.",
            as_markdown(pd.DataFrame(rows)),
        ]
    parts += [f"![{Path(name).stem}]({name})" for name in pictures]
    parts += [f"```\n{results.command}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _scores(results: Results) -> pd.DataFrame:
    """Scores and val_loss of every training, indexed by run and seed."""
    rows = {}
    for name, found in results.runs.items():
        for seed, outcome in found.seeds.items():
            rows[name, seed] = {
                f"{source} {metric} ({UNITS[metric]})": scores[metric]
                for source, scores in outcome.scores.items()
                for metric in (*FRAMEWISE, OVERALL)
            }
            rows[name, seed]["val_loss"] = outcome.val_loss
    return pd.DataFrame.from_dict(rows, "index")


def _over_seeds(table: pd.DataFrame, sign: str = "") -> dict[str, str]:
    """Mean of every column, with the standard deviation in brackets if there are several seeds."""
    cells = {}
    for column in table:
        digits = 4 if column == "val_loss" else 2
        cells[column] = formatted(table[column].mean(), f"{sign}.{digits}f")
        if table[column].count() > 1:
            cells[column] += f" ({table[column].std():.{digits}f})"
    return cells


def _write_spectrograms(plan: Plan, runs: Mapping[Variant, Run], folder: Path) -> list[str]:
    """Draw the spectrograms of the plan's panels for the first seed.

    Returns:
        The names of the files, one per source.
    """
    if not plan.panels:
        return []
    seed = plan.seeds[0]
    by_name = {variant.run: run for variant, run in runs.items() if variant.seed == seed}
    comparison = compare([by_name[name] for name in plan.panels])
    (excerpt,), _ = choose_excerpts(comparison, 1)
    names = zip(plan.panels, comparison.labels, strict=True)
    estimates = {name: excerpt.estimates[label] for name, label in names}
    excerpt = dataclasses.replace(excerpt, estimates=estimates)
    files = []
    for source in comparison.sources:
        files.append(f"spectrograms-{source}.png")
        image = plots.spectrograms(
            excerpt.panels(source), excerpt.song.mixture, excerpt.song.sample_rate
        )
        _write_picture(folder / files[-1], image)
    return files


def _write_picture(path: Path, image: bytes) -> None:
    with atomic_file(path) as temporary:
        temporary.write_bytes(image)
