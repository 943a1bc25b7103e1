"""Train variants of a configuration under equal conditions, score them, and compare their scores.

OUT/configurations/NAME-SEED.json   the configuration of the plan with the changes of one run
OUT/logs/NAME-SEED.txt              messages of the training
OUT/runs/NAME-SEED/                 folder of the training, for ``-p``
OUT/scores/NAME-SEED/               folder of the evaluation, for ``compare`` and ``report``
OUT/results.json, ablation.md, val_loss.png, spectrograms-SOURCE.png
"""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from spleeter_2.config.loading import load_configuration, parse_configuration
from spleeter_2.console import configure_logging
from spleeter_2.data.songs import split, training_songs
from spleeter_2.errors import SeparationError
from spleeter_2.executor import Cluster, Failure, log_dashboard, run_tasks
from spleeter_2.files import write_text

from .ablation_plan import Plan, Variant, configured, read_plan
from .ablation_report import write_results
from .results import Run
from .runner import Settings, hardware, score_missing, time_left, versions
from .tracks import find_tracks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """Options of an ablation.

    Attributes:
        data: songs to train with.
        scored: data set to score (default: ``data``).
        jobs: trainings at a time, which share the cores (default: 1).
        cluster: see ``runner.Settings``; it trains, too.
        cache: folder of decoded stems.
    """

    data: Path
    scored: Path | None
    output: Path
    subset: str = "test"
    jobs: int | None = None
    cluster: str | None = None
    cache: Path | None = None
    verbose: bool = False

    @property
    def place(self) -> Cluster:
        """Where the trainings run."""
        return Cluster(1 if self.jobs is None and self.cluster is None else self.jobs, self.cluster)

    def with_absolute_paths(self) -> Options:
        """Options for processes that have another working folder."""
        folders = (self.data, self.scored, self.output, self.cache)
        data, scored, output, cache = (folder and folder.absolute() for folder in folders)
        return replace(self, data=data, scored=scored, output=output, cache=cache)


def ablation(path: Path, options: Options) -> Path:
    """Train what is not trained yet, score what has no scores, write tables and pictures.

    Args:
        path: JSON file of the plan.

    Returns:
        The Markdown file.

    Raises:
        SeparationError: the plan, the data or the folder cannot be used, or a training failed.
    """
    if options.place.address:
        options = options.with_absolute_paths()
    plan = read_plan(path)
    scored = options.scored or options.data
    tracks = find_tracks(scored, options.subset, ())
    variants = [
        Variant(run, seed, options.output) for seed in plan.seeds for run in plan.runs
    ]  # seed by seed: the first seed's results can be looked at early
    contents = [configured(plan, path, variant.run, variant.seed) for variant in variants]
    _refuse_known_songs(contents[0], options.data, [track.name for track in tracks])
    for variant, content in zip(variants, contents, strict=True):
        _write_configuration(variant, content)
    _train_all([variant for variant in variants if not _is_trained(variant)], options)
    runs = {variant: _scored(variant, plan, scored, options) for variant in variants}
    facts = {"command": _command(path, options), "versions": versions(), "hardware": hardware()}
    return write_results(plan, runs, facts)


def _command(path: Path, options: Options) -> str:
    words = ["python", "-m", "evaluation", "ablation", str(path), "-d", str(options.data)]
    words += [] if options.scored is None else ["--mus_dir", str(options.scored)]
    words += ["-o", str(options.output)]
    return shlex.join(words if options.cluster else [*words, "--jobs", str(options.place.jobs)])


def _write_configuration(variant: Variant, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2) + "\n"
    path = variant.configuration
    if not path.is_file() or path.read_text("utf-8") != text:
        write_text(path, text)


def _is_trained(variant: Variant) -> bool:
    """Return True if a training with this configuration has finished."""
    try:
        summary = variant.summary()
        trained = load_configuration(str(variant.training))
    except (ValueError, SeparationError):
        return False
    wanted = load_configuration(str(variant.configuration))
    return summary.finished and structs.replace(trained, weights=None) == wanted


@dataclass(frozen=True)
class _Task:
    variant: Variant
    data: Path
    cache: Path | None


def _train_all(variants: Sequence[Variant], options: Options) -> None:
    tasks = [_Task(variant, options.data, options.cache) for variant in variants]
    if not tasks:
        return
    at_a_time = f", {options.place.jobs} at a time" if options.place.jobs else ""
    log.info(f"{len(tasks)} training(s){at_a_time}; logs in {options.output}/logs")
    started = time.monotonic()
    results = run_tasks(
        tasks, train_variant, options.place, options.verbose, on_start=log_dashboard
    )
    failures = []
    with contextlib.closing(results):
        for count, (task, outcome) in enumerate(results, 1):
            title = f"[{count}/{len(tasks)}] {task.variant.name}"
            if isinstance(outcome, Failure):
                failures.append(f"{task.variant.name}: {outcome}")
                log.error(f"{title}: error: {outcome}")
            else:
                left = time_left(count, len(tasks), time.monotonic() - started)
                log.info(f"{title}: val_loss {outcome:.4g}; {left}")
    if failures:
        raise SeparationError(f"{failures[0]} (run the same command again to resume)")


def train_variant(task: _Task) -> float:
    """Train one variant in a worker process; when it is interrupted, its state is saved.

    Returns:
        The best validation loss.
    """
    from spleeter_2.training.train import train

    path = task.variant.log
    path.parent.mkdir(parents=True, exist_ok=True)
    configure_logging()
    with path.open("a", encoding="utf-8") as file:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            train(
                str(task.variant.configuration),
                task.data,
                task.variant.training,
                task.cache,
                verbose=2,
            )
    return task.variant.summary().best


def _refuse_known_songs(content: dict[str, Any], data: Path, scored: Sequence[str]) -> None:
    """Raise SeparationError for songs of both training and test set."""
    configuration = parse_configuration(content)
    found = training_songs(data, configuration.instruments)
    songs, _ = split(found, configuration.training.validation)
    known = sorted({song.name for song in songs} & set(scored))
    if known:
        raise SeparationError(
            f"{', '.join(known[:3])}{', ...' if len(known) > 3 else ''} would be scored, but "
            "would be trained with, too: name other songs with --mus_dir"
        )


def _scored(variant: Variant, plan: Plan, scored: Path, options: Options) -> Run:
    """Score a variant; estimates are kept for the spectrograms."""
    drawn = variant.run in plan.panels and variant.seed == plan.seeds[0]
    settings = Settings(
        model=str(variant.training),
        data=scored,
        output=options.output / "scores",
        subset=options.subset,
        cluster=options.cluster,
        save_audio=drawn,
        verbose=options.verbose,
    )
    (run,), _ = score_missing(settings)
    return run
