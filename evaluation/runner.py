"""Separate and score the tracks of a data set; the scores of each are written as soon as known."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import soundfile
from tqdm import tqdm

from spleeter_2.audio.mark import MARK
from spleeter_2.checks import (
    check_flag,
    check_names,
    check_number,
    check_path,
    check_text,
    check_whole,
)
from spleeter_2.data.songs import Song
from spleeter_2.errors import SeparationError
from spleeter_2.executor import Cluster, Failure, log_dashboard, run_tasks
from spleeter_2.files import atomic_file, write_json
from spleeter_2.runtime.network import parse_device
from spleeter_2.separation.separator import MOST_SHIFTS

from .methods import (
    Estimator,
    Method,
    choose_sources,
    configuration_digest,
    open_estimator,
    prepare,
)
from .results import (
    INFORMATION,
    METRICS,
    Information,
    Run,
    TrackName,
    TrackScores,
    read_run,
    read_scores,
    write_scores,
)
from .scores import SCORERS, TrackScorer, round_to_16_bits
from .tables import details, formatted, museval_summary
from .tracks import (
    TrackAudio,
    file_sizes,
    find_tracks,
    import_stempeg,
    load_track,
    track_seconds,
)

log = logging.getLogger(__name__)

LARGEST_REMAINDER = -40.0  # dB; above it a note says that the mixture is not the sum of its stems
PACKAGES = ("spleeter-2", "spleeter", "tensorflow", "museval", "musdb", "numpy", "scipy")
# measured by benchmarks/scoring.py
BASE_MEMORY = 1.0  # GB per process
MEMORY_PER_MINUTE = {"spleeter_2": 0.2, "museval": 0.5}  # GB per minute of audio and source


@dataclass(frozen=True)
class Settings:
    """Options of an evaluation.

    Attributes:
        data: folder of the data set.
        tracks: names (default: all tracks).
        baselines: further methods, separated by commas.
        jobs: processes (default: as cores and memory allow).
        cluster: address of a Dask scheduler or its file, in place of ``jobs``; its workers need
            the folders of the data and of the output under the same absolute paths.
        scorer: one of ``SCORERS`` (default: that of an existing run, else the first).

    Raises:
        SeparationError: a value of another type, or out of range; a device that does not exist.
    """

    model: str
    data: Path
    output: Path
    subset: str = "test"
    tracks: tuple[str, ...] = ()
    nb_sources: int | None = None
    baselines: str = ""
    jobs: int | None = None
    cluster: str | None = None
    scorer: str | None = None
    save_audio: bool = False
    mwf: bool = False
    overlap: float | None = None
    shifts: int = 1
    device: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        checked = {
            "model": check_path("the model", self.model),
            "data": Path(check_path("data", self.data)),
            "output": Path(check_path("output", self.output)),
            "subset": check_text("the subset", self.subset),
            "tracks": check_names("tracks", self.tracks),
            "baselines": check_text("baselines", self.baselines),
        }
        for name in ("save_audio", "mwf", "verbose"):
            checked[name] = check_flag(name, getattr(self, name))
        if self.nb_sources is not None:
            checked["nb_sources"] = check_whole("sources", self.nb_sources)
        if self.jobs is not None or self.cluster is not None:
            given = Cluster(self.jobs, self.cluster)
            checked.update(jobs=given.jobs, cluster=given.address)
        if self.cluster is not None:  # workers have working folders of their own
            for name in ("data", "output"):
                checked[name] = checked[name].absolute()
        if self.scorer is not None and self.scorer not in SCORERS:
            raise SeparationError(f"--scorer must be {' or '.join(SCORERS)}, not {self.scorer}")
        if self.overlap is not None:
            checked["overlap"] = check_number("the overlap", self.overlap, 0, 0.99)
        checked["shifts"] = check_whole("shifts", self.shifts, 1, MOST_SHIFTS)
        if self.device is not None:
            parse_device(self.device)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def command(self) -> str:
        """The command line that repeats the evaluation."""
        words = ["python", "-m", "evaluation", "run", "-p", self.model]
        words += ["--mus_dir", str(self.data), "-o", str(self.output)]
        words += ["--subset", self.subset]
        for name in self.tracks:
            words += ["--tracks", name]
        values = {
            "--sources": self.nb_sources,
            "--baseline": self.baselines or None,
            "--scorer": self.scorer if self.scorer != SCORERS[0] else None,
            "--overlap": self.overlap,
            "--shifts": self.shifts if self.shifts != 1 else None,
            "--device": self.device,
        }
        for option, value in values.items():
            words += [] if value is None else [option, str(value)]
        flags = {"--mwf": self.mwf, "--save-audio": self.save_audio}
        return shlex.join([*words, *(flag for flag, given in flags.items() if given)])


@dataclass(frozen=True)
class Task:
    """A track and the methods it has no scores of."""

    track: Song
    methods: tuple[tuple[Method, Run], ...]
    seconds: float
    save_audio: bool


def evaluate(settings: Settings) -> list[Run]:
    """Score what has no scores yet and print the tables.

    Returns:
        The complete runs: the model's, then those of the baselines.

    Raises:
        SeparationError: see ``score_missing``.
    """
    runs, tracks = score_missing(settings)
    _report(runs, tracks)
    return runs


def score_missing(settings: Settings) -> tuple[list[Run], list[Song]]:
    """Score what has no scores yet.

    Returns:
        The complete runs, of the model, then of the baselines; and the tracks of the settings.

    Raises:
        SeparationError: there is nothing to evaluate, the folder holds another run, or tracks
            could not be scored. The scores of the other tracks are kept.
    """
    import_stempeg()
    tracks = find_tracks(settings.data, settings.subset, settings.tracks)
    methods = _methods(settings)
    for method in methods:
        prepare(method)
    runs = [_open_run(method, tracks, settings) for method in methods]
    tasks = _tasks(tracks, list(zip(methods, runs, strict=True)), settings.save_audio)
    log.info(
        f"{len(tracks)} track(s), {len(methods[0].sources)} sources, "
        f"{', '.join(method.name for method in methods)}; {len(tasks)} track(s) to score"
    )
    if tasks:
        _score_all(tasks, settings)
    return runs, tracks


def _methods(settings: Settings) -> list[Method]:
    others = [name.strip() for name in settings.baselines.split(",") if name.strip()]
    sources = choose_sources(settings.model, others, settings.nb_sources)
    model = Method(
        settings.model,
        sources,
        settings.mwf,
        settings.overlap,
        settings.shifts,
        settings.device,
    )
    methods = [model, *(Method(name, sources) for name in dict.fromkeys(others))]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise SeparationError(
                f"two methods would share the folder {settings.output / name}: evaluate them in "
                "separate runs with different -o"
            )
    return methods


def _open_run(method: Method, tracks: Sequence[Song], settings: Settings) -> Run:
    """Make the folder of a run, or open it and add the tracks of --tracks."""
    folder = settings.output / method.name
    identity = method.identity()
    names = [TrackName(track.subset, track.name) for track in tracks]
    scorer = settings.scorer or SCORERS[0]
    if (folder / INFORMATION).is_file():
        before = read_run(folder).information
        # the digest of an older version lacks keys that are newer
        renewed = configuration_digest(before.configuration)
        former = msgspec.structs.replace(before.identity, configuration=renewed)
        scorer = settings.scorer or before.scorer
        for what, is_same in (
            ("another model or other options", former.same_estimates(identity)),
            ("another subset", before.subset == tracks[0].subset),
            (f"the scorer {before.scorer}", before.scorer == scorer),
        ):
            if not is_same:
                raise SeparationError(
                    f"{folder} holds results of {what}: choose another folder with -o, or remove it"
                )
        if settings.tracks:  # without --tracks a run has exactly the tracks of the data set
            names = list(dict.fromkeys([*before.tracks, *names]))
    information = Information(
        name=method.name,
        identity=identity,
        configuration=method.configuration(),
        subset=tracks[0].subset,
        data=str(settings.data.resolve()),
        tracks=tuple(names),
        command=replace(settings, scorer=scorer).command(),
        started=time.strftime("%Y-%m-%d %H:%M:%S"),
        versions=versions(),
        hardware=hardware(),
        scorer=scorer,
    )
    write_json(folder / INFORMATION, msgspec.to_builtins(information))
    return Run(folder, information)


def _tasks(tracks: Sequence[Song], pairs: list[tuple[Method, Run]], save_audio: bool) -> list[Task]:
    """List what has no scores, longest tracks first for load balancing."""
    tasks = []
    for track in tracks:
        left = tuple(pair for pair in pairs if not _is_done(track, pair[1], save_audio))
        if left:
            tasks.append(Task(track, left, track_seconds(track), save_audio))
    return sorted(tasks, key=lambda task: -task.seconds)


def _is_done(track: Song, run: Run, save_audio: bool) -> bool:
    """Return True if a track has scores of its present files."""
    path = run.path(track.subset, track.name)
    if track.fault or not path.is_file():
        return False
    if save_audio and not run.has_audio(track.subset, track.name):
        return False
    try:
        scores = read_scores(path)
        return (
            scores.files == file_sizes(track)
            and tuple(scores.sources) == run.sources
            and scores.scorer == run.information.scorer
        )
    except SeparationError:
        return False


def _score_all(tasks: list[Task], settings: Settings) -> None:
    if settings.cluster:
        cluster, threads = Cluster(address=settings.cluster), None
        tasks = [_with_absolute_paths(task) for task in tasks]
    else:
        jobs = settings.jobs or default_jobs(max(task.seconds for task in tasks), tasks)
        cluster, threads = Cluster(min(jobs, len(tasks))), 1
    total = sum(task.seconds for task in tasks)
    started, done = time.monotonic(), 0.0
    failed: set[str] = set()
    results = run_tasks(
        tasks, score_track, cluster, settings.verbose, threads, on_start=log_dashboard
    )
    with contextlib.closing(results):
        for count, (task, outcomes) in enumerate(results, 1):
            if isinstance(outcomes, Failure):
                outcomes = [(None, outcomes)]
            done += task.seconds
            left = time_left(done, total, time.monotonic() - started)
            log.info(f"[{count}/{len(tasks)}] {task.track.name}, {left}")
            for name, outcome in outcomes:
                if isinstance(outcome, Failure):
                    failed.add(task.track.name)
                    log.error(f"  error: {outcome}")
                else:
                    log.info(f"  {name}: {_in_short(outcome)}")
    if failed:
        raise SeparationError(
            f"{len(failed)} track(s) could not be scored ({', '.join(sorted(failed))}), so there "
            "is no table: repair or remove them and run again, which scores only what is missing, "
            "or name the others with --tracks and choose another folder than "
            f"{settings.output} with -o"
        )


def _with_absolute_paths(task: Task) -> Task:
    """A task whose models are found by processes that have another working folder."""
    methods = []
    for method, run in task.methods:
        path = Path(method.descriptor)
        descriptor = str(path.absolute()) if path.exists() else method.descriptor
        methods.append((replace(method, descriptor=descriptor), run))
    return replace(task, methods=tuple(methods))


def score_track(task: Task) -> list[tuple[str, TrackScores | Failure]]:
    """Separate and score one track with each method of a task, and write the scores."""
    audio = load_track(task.track, task.methods[0][0].sources)
    scorers = {
        name: TrackScorer(audio.references, audio.mixture, audio.sample_rate, name)
        for name in {run.information.scorer for _, run in task.methods}
    }
    outcomes: list[tuple[str, TrackScores | Failure]] = []
    for method, run in task.methods:
        try:
            scorer = scorers[run.information.scorer]
            outcomes.append((method.name, _score(method, run, task, audio, scorer)))
        except SeparationError as error:
            outcomes.append((method.name, Failure(f"{task.track.name}: {error}")))
    return outcomes


_ESTIMATORS: dict[Method, Estimator] = {}  # per process: a model is loaded once


def _score(
    method: Method, run: Run, task: Task, audio: TrackAudio, scorer: TrackScorer
) -> TrackScores:
    track = task.track
    if method not in _ESTIMATORS:
        _ESTIMATORS[method] = open_estimator(method)
    times = [time.perf_counter()]
    estimates = _ESTIMATORS[method](audio)
    times.append(time.perf_counter())
    sources = scorer.score(estimates)
    times.append(time.perf_counter())
    kept = run.audio(track.subset, track.name)
    if task.save_audio or kept.is_dir():  # kept ones may be incomplete, or of other audio
        save_audio(kept, estimates, audio.sample_rate)
    scores = TrackScores(
        name=track.name,
        subset=track.subset,
        samples=len(audio.mixture),
        sample_rate=audio.sample_rate,
        files=file_sizes(track),
        remainder=audio.remainder,
        seconds={"separation": times[1] - times[0], "scoring": times[2] - times[1]},
        sources=sources,
        scorer=run.information.scorer,
    )
    write_scores(run.path(track.subset, track.name), scores)
    return scores


def save_audio(folder: Path, estimates: dict[str, np.ndarray], sample_rate: int) -> None:
    """Write estimates as they were scored: 16-bit WAV files, float ones beyond full scale.

    Raises:
        SeparationError: the folder cannot be written.
    """
    for name, waveform in estimates.items():
        waveform = round_to_16_bits(waveform)
        fits = np.max(np.abs(waveform), initial=0) < 1
        # not floats: soundfile scales them by 32767, and the scores could not be repeated
        samples = (32768 * waveform).astype(np.int16) if fits else waveform
        with atomic_file(folder / f"{name}.wav") as path:
            try:
                subtype = "PCM_16" if fits else "FLOAT"
                with soundfile.SoundFile(
                    path, "w", sample_rate, waveform.shape[1], subtype
                ) as file:
                    file.software = MARK
                    file.write(samples)
            except soundfile.LibsndfileError as error:
                raise SeparationError(f"cannot write to {folder}: {error}") from error


def default_jobs(longest: float, tasks: Sequence[Task]) -> int:
    """Number of processes that cores and memory allow.

    Args:
        longest: duration of the longest track, in seconds.
    """
    nb_sources = len(tasks[0].methods[0][0].sources)
    scorers = {run.information.scorer for task in tasks for _, run in task.methods}
    per_minute = max(MEMORY_PER_MINUTE[scorer] for scorer in scorers)
    need = BASE_MEMORY + per_minute * nb_sources * longest / 60
    return max(1, min(os.cpu_count() or 1, int(0.8 * _memory() / need)))


def _report(runs: Sequence[Run], tracks: Sequence[Song]) -> None:
    """Print the tables of the given tracks."""
    remainders = {}
    for run in runs:
        scores = [read_scores(run.path(track.subset, track.name)) for track in tracks]
        remainders = {track.name: track.remainder for track in scores}
        print(f"{museval_summary(run, scores)}\n\n{details(run, scores)}\n\nin {run.folder}\n")
    large = {name: level for name, level in remainders.items() if level > LARGEST_REMAINDER}
    if large:
        worst = max(large, key=large.__getitem__)
        log.warning(
            f"note: in {len(large)} of {len(tracks)} track(s) the mixture is not the sum of its "
            f"stems; the remainder is {large[worst]:.1f} dB against the mixture in {worst}"
        )


def _in_short(scores: TrackScores) -> str:
    levels = ", ".join(
        f"{name} {formatted(scores.metric(name, METRICS[0]), '.2f')}" for name in scores.sources
    )
    return f"SDR {levels}; {sum(scores.seconds.values()):.0f} s"


def time_left(done: float, total: float, elapsed: float) -> str:
    """Format the time left at the mean rate of ``elapsed`` seconds.

    A line per track, not a bar: runs take hours, and their messages are often kept in a file.
    """
    return tqdm.format_meter(done, total, elapsed, bar_format="{remaining} left")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the scores depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def hardware() -> dict[str, object]:
    """Description of the machine."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "memory in GB": round(_memory(), 1),
    }


def _memory() -> float:
    """Memory of the machine in GB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return 8.0
