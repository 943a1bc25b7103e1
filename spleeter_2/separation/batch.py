"""Separate songs with one model: the list of songs, where they run, messages and a summary."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from tqdm import tqdm

from spleeter_2.audio.ffmpeg import STDIO
from spleeter_2.config.loading import PREFIXES
from spleeter_2.console import progress_bar
from spleeter_2.errors import ModelError, SeparationError
from spleeter_2.executor import Cluster, Failure, log_dashboard, run_tasks
from spleeter_2.runtime.memory import use_one_arena

from .manifest import Manifest, Row
from .paths import plan_outputs
from .remote import are_there, is_remote
from .song import (
    Outcome,
    Settings,
    Task,
    adapter_of,
    close_separator,
    digest_of,
    model_digest,
    open_separator,
    separate_in_worker,
    separate_one,
)
from .table import Table, is_done

log = logging.getLogger(__name__)

INTERVAL = 30.0  # seconds between lines of progress
MOST_NAMED = 20  # failed songs that the summary names


@dataclass(frozen=True)
class Catalogue:
    """Where many songs are listed, separated and recorded.

    Attributes:
        manifest: path of the list of songs (default: the command line's files).
        table: path of the table of results (default: none).
        cluster: where songs are separated (default: in this process, one after the other).
    """

    manifest: str | None = None
    table: str | None = None
    cluster: Cluster | None = None


def separate_songs(
    files: list[str], settings: Settings, catalogue: Catalogue = Catalogue()
) -> bool:
    """Separate songs and log a message for each; failed songs are skipped.

    Args:
        files: ``inputs`` of ``plan_outputs``; empty with a manifest.

    Returns:
        True if all songs were separated and all folders searched.

    Raises:
        SeparationError: an error that affects all songs: options, paths, the model, the table, the
            cluster.
    """
    use_one_arena()
    adapter_of(settings)
    close_separator()  # of an earlier run: its files may have changed
    try:
        plan = _Plan(files, settings, catalogue)
        _check_places(plan, settings, catalogue)
        with contextlib.ExitStack() as stack:
            table = stack.enter_context(Table(catalogue.table)) if catalogue.table else None
            return _Run(plan, settings, catalogue, table).run() and not plan.unsearched
    finally:
        close_separator()


class _Plan:
    """The songs of a run.

    Attributes:
        settings: with the stems that any song needs.
        separator: the model.
        nb_songs: number of songs.
        unsearched: errors of folders that cannot be searched, which are logged.
    """

    def __init__(self, files: list[str], settings: Settings, catalogue: Catalogue) -> None:
        self.separator = open_separator(settings)
        self.unsearched: list[SeparationError] = []
        self.settings = settings
        self._rows = self._list(files, settings, catalogue)
        self.separator.find_weights()  # in the main thread, where Ctrl-C ends a download

    def _list(self, files: list[str], settings: Settings, catalogue: Catalogue) -> Iterable[Row]:
        if catalogue.manifest is not None:
            model = self.separator.configuration
            manifest = Manifest(catalogue.manifest, settings, (model.name, model.instruments))
            if manifest.stems != self.separator.stems:
                self.settings = replace(settings, stems=list(manifest.stems))
                self.separator = open_separator(self.settings)
            self.nb_songs = manifest.nb_songs
            return manifest
        songs = plan_outputs(
            files,
            settings.output_path,
            settings.filename_format,
            settings.encoding.codec,
            self.separator.stems,
            self.unsearched.append,
        )
        for error in self.unsearched:
            log.error(f"error: {error}")
        self.nb_songs = len(songs)
        return [Row(song, settings) for song in songs]

    def __iter__(self) -> Iterator[Row]:
        """The songs, each with the stems of all."""
        for row in self._rows:
            yield replace(row, settings=replace(row.settings, stems=self.settings.stems))


def _check_places(plan: _Plan, settings: Settings, catalogue: Catalogue) -> None:
    """Raise SeparationError for files that a worker, or a check of stems, cannot reach."""
    decodes = settings.skip_existing and catalogue.table is None
    if not (decodes or (catalogue.cluster and catalogue.manifest is None)):
        return
    for row in plan:
        outputs = row.song.outputs.values()
        if catalogue.cluster and STDIO in (row.song.source, *outputs):
            raise SeparationError(
                "workers have no standard input and output: omit --jobs and --cluster"
            )
        if decodes and any(map(is_remote, outputs)):
            raise SeparationError(
                "--skip-existing does not fetch stems from a store to decode them: give a table of "
                "results with --table"
            )


class _Run:
    """Separates the songs of a plan; ``run`` is all of it."""

    def __init__(
        self, plan: _Plan, settings: Settings, catalogue: Catalogue, table: Table | None
    ) -> None:
        self._plan, self._settings, self._table = plan, settings, table
        self._cluster = catalogue.cluster
        self._has_manifest = catalogue.manifest is not None
        self._model = ""
        if table is not None or self._cluster is not None:
            self._model = model_digest(plan.separator.configuration)
        skips = table is not None and settings.skip_existing
        self._done = table.done() if skips else {}
        self._failed: list[str] = []
        self._nb_failed = self._nb_skipped = 0
        self._progress = _Progress(plan.nb_songs, self._is_large)

    @property
    def _is_large(self) -> bool:
        """True if progress is counted in songs."""
        return self._cluster is not None or self._has_manifest

    def run(self) -> bool:
        """Return True if no song failed."""
        with self._progress, contextlib.closing(self._outcomes()) as outcomes:
            for task, outcome in outcomes:
                self._report(task, outcome)
        self._summarise()
        return not self._nb_failed

    def _outcomes(self) -> Iterator[tuple[Task, Outcome]]:
        if self._cluster is None:
            for task in self._tasks():
                yield task, separate_one(task, shows_bar=not self._is_large)
            return
        results = run_tasks(
            self._tasks(),
            separate_in_worker,
            self._cluster,
            self._settings.verbose,
            on_start=log_dashboard,
        )
        with contextlib.closing(results):
            for task, result in results:
                if isinstance(result, ModelError):
                    raise result
                if isinstance(result, Failure):
                    message = f"{task.song.source}: {result}"
                    result = Outcome("failed", [(logging.ERROR, f"error: {message}")], note=message)
                yield task, result

    def _tasks(self) -> Iterator[Task]:
        """The songs that are not skipped here."""
        for row in self._plan:
            task = self._task(row)
            if task.is_listed and not any(map(is_remote, task.song.outputs.values())):
                if are_there(task.song.outputs):  # a file system answers at once, a store does not
                    self._report(task, Outcome("skipped"))
                    continue
                task = replace(task, is_listed=False)
            yield task

    def _task(self, row: Row) -> Task:
        song, settings = row.song, row.settings
        if self._cluster is not None:
            # workers have another current folder
            if not is_remote(song.source):
                song = replace(song, source=os.path.abspath(song.source))
            if not settings.model.startswith(PREFIXES):
                settings = replace(settings, model=os.path.abspath(settings.model))
        if self._table is None:
            return Task(song, settings, self._model)
        digest = digest_of(self._model, settings, song.outputs)
        task = Task(song, settings, self._model, digest)
        return replace(task, is_listed=bool(self._done) and is_done(task, self._done))

    def _report(self, task: Task, outcome: Outcome) -> None:
        """Record and log what became of a song."""
        if self._table is not None and outcome.status != "skipped":
            self._table.append(task, outcome)
        with self._progress.paused():
            for level, text in outcome.messages:
                log.log(level, text)
        self._nb_skipped += outcome.status == "skipped"
        if outcome.status == "failed":
            self._nb_failed += 1
            if len(self._failed) < MOST_NAMED:
                self._failed.append(task.song.source)
        self._progress.add(outcome)

    def _summarise(self) -> None:
        if self._nb_skipped:
            reason = "their stems exist and are whole"
            if self._table is not None:
                reason = "the table has them as done, and their stems exist"
            log.info(f"{self._nb_skipped} song(s) skipped: {reason}")
        nb_songs = self._plan.nb_songs
        if self._nb_failed and nb_songs > 1:
            more = ", ..." if self._nb_failed > len(self._failed) else ""
            names = ", ".join(self._failed) + more
            log.error(f"{self._nb_failed} of {nb_songs} songs failed: {names}")


class _Progress:
    """Progress of many songs: a bar on a terminal, elsewhere a line now and then.

    Args:
        is_shown: show it at all.
    """

    def __init__(self, nb_songs: int, is_shown: bool) -> None:
        self._total, self._is_shown = nb_songs, is_shown
        self._nb_ended = self._nb_separated = 0
        self._seconds = 0.0  # of audio
        self._begin = self._latest = time.monotonic()

    def __enter__(self) -> _Progress:
        self._bar = progress_bar("songs", "song", self._total, is_shown=self._is_shown)
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
        if self._is_shown and self._nb_separated:
            log.info(self._describe())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Messages of the block are printed above the bar."""
        if self._bar.disable:
            yield
        else:
            with tqdm.external_write_mode(file=sys.stderr):
                yield

    def add(self, outcome: Outcome) -> None:
        """Count a song."""
        self._nb_ended += 1
        self._nb_separated += outcome.status != "skipped"
        self._seconds += outcome.seconds
        self._bar.set_postfix_str(f"{self._rate(self._seconds / 3600):.1f} h audio/h", False)
        self._bar.update(1)
        now = time.monotonic()
        if self._is_shown and self._bar.disable and now - self._latest > INTERVAL:
            self._latest = now
            log.info(f"{self._describe()}{self._left()}")

    def _left(self) -> str:
        rate = self._rate(self._nb_separated)
        if not rate:
            return ""
        return f", {tqdm.format_interval(3600 * (self._total - self._nb_ended) / rate)} left"

    def _rate(self, amount: float) -> float:
        """An amount per hour."""
        return 3600 * amount / max(time.monotonic() - self._begin, 1e-9)

    def _describe(self) -> str:
        return (
            f"{self._nb_ended} of {self._total} songs, {self._rate(self._nb_separated):.0f} songs "
            f"and {self._rate(self._seconds / 3600):.1f} hours of audio per hour"
        )
