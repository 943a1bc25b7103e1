"""Separate and score every track of a data set; one file of scores per track, written at once."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from spleeter_2.data.songs import Song
from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_file, write_json

from .methods import Method, choose_sources, open_estimator, prepare
from .results import (
    FORMAT,
    INFORMATION,
    METRICS,
    Run,
    TrackScores,
    read_run,
    read_scores,
    write_scores,
)
from .scores import round_to_16_bits, score
from .tables import details, familiar
from .tracks import (
    TrackAudio,
    file_sizes,
    find_tracks,
    import_stempeg,
    load_track,
    track_seconds,
)
from .workers import Failure, run_tasks

SUMS = -40.0  # dB; a mixture farther than this from the sum of its stems is worth a note
PACKAGES = ("spleeter-2", "spleeter", "tensorflow", "museval", "musdb", "numpy", "scipy")
# memory of a process, GB, and what a minute of audio adds per source: see benchmarks/scoring.py
BASE_MEMORY = 1.0
MEMORY_PER_MINUTE = 0.5


@dataclass(frozen=True)
class Settings:
    """What to evaluate, on what, and how.

    ``baselines``: names with commas between. ``jobs``: processes; None chooses.
    """

    model: str
    data: Path
    output: Path
    subset: str = "test"
    tracks: tuple[str, ...] = ()
    nb_sources: int | None = None
    baselines: str = ""
    jobs: int | None = None
    save_audio: bool = False
    mwf: bool = False
    overlap: float | None = None
    device: str | None = None
    verbose: bool = False

    def command(self) -> str:
        """The command that does the same again."""
        words = ["python", "-m", "evaluation", "run", "-p", self.model]
        words += ["--mus_dir", str(self.data), "-o", str(self.output)]
        words += ["--subset", self.subset]
        for name in self.tracks:
            words += ["--tracks", name]
        values = {
            "--sources": self.nb_sources,
            "--baseline": self.baselines or None,
            "--overlap": self.overlap,
            "--device": self.device,
        }
        for option, value in values.items():
            words += [] if value is None else [option, str(value)]
        flags = {"--mwf": self.mwf, "--save-audio": self.save_audio}
        return shlex.join([*words, *(flag for flag, given in flags.items() if given)])


@dataclass(frozen=True)
class Task:
    """A track, and the methods that it has no scores of."""

    track: Song
    methods: tuple[tuple[Method, Run], ...]
    seconds: float
    save_audio: bool


def evaluate(settings: Settings) -> list[Run]:
    """Score what has no scores yet, then print the tables.

    Returns:
        The runs, complete: the model's, then those of the baselines.

    Raises:
        SeparationError: see ``score_missing``.
    """
    runs, tracks = score_missing(settings)
    _report(runs, tracks)
    return runs


def score_missing(settings: Settings) -> tuple[list[Run], list[Song]]:
    """Score what has no scores yet.

    Returns:
        The runs, complete: the model's, then those of the baselines; the tracks asked for.

    Raises:
        SeparationError: nothing to evaluate, results that belong to another run, or tracks that
            could not be scored: the others' scores are kept, but there is no table without them.
    """
    if settings.jobs is not None and settings.jobs < 1:
        raise SeparationError(f"--jobs must be positive, not {settings.jobs}")
    import_stempeg()
    tracks = find_tracks(settings.data, settings.subset, settings.tracks)
    methods = _methods(settings)
    for method in methods:
        prepare(method)
    runs = [_open_run(method, tracks, settings) for method in methods]
    tasks = _tasks(tracks, list(zip(methods, runs, strict=True)), settings.save_audio)
    say(
        f"{len(tracks)} track(s), {len(methods[0].sources)} sources, "
        f"{', '.join(method.name for method in methods)}; {len(tasks)} track(s) to score"
    )
    if tasks:
        _score_all(tasks, settings)
    return runs, tracks


def _methods(settings: Settings) -> list[Method]:
    others = [name.strip() for name in settings.baselines.split(",") if name.strip()]
    sources = choose_sources(settings.model, others, settings.nb_sources)
    model = Method(settings.model, sources, settings.mwf, settings.overlap, settings.device)
    methods = [model, *(Method(name, sources) for name in dict.fromkeys(others))]
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise SeparationError(
                f"two methods would share the folder {settings.output / name}: evaluate them "
                "apart, with another -o"
            )
    return methods


def _open_run(method: Method, tracks: Sequence[Song], settings: Settings) -> Run:
    """The run's folder, made if need be; its tracks take in those named, or are all there are."""
    folder = settings.output / method.name
    identity = method.identity()
    asked = [{"subset": track.subset, "name": track.name} for track in tracks]
    information = {
        "format": FORMAT,
        "name": method.name,
        "identity": identity,
        "configuration": method.configuration(),
        "subset": tracks[0].subset,
        "data": str(settings.data.resolve()),
        "tracks": asked,
        "command": settings.command(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "versions": versions(),
        "hardware": hardware(),
    }
    if (folder / INFORMATION).is_file():
        before = read_run(folder).information
        for what, one, two in (
            ("another model or other options", _same(before["identity"]), _same(identity)),
            ("another subset", before["subset"], information["subset"]),
        ):
            if one != two:
                raise SeparationError(
                    f"{folder} holds results of {what}: choose another folder with -o, or remove it"
                )
        if settings.tracks:  # else the run's tracks are the data set's
            information["tracks"] = [
                *before["tracks"],
                *(t for t in asked if t not in before["tracks"]),
            ]
    write_json(folder / INFORMATION, information)
    return Run(folder, information)


def _same(identity: dict) -> dict:
    """Identity without what may change though the estimates do not: where the weights stand."""
    return {k: v for k, v in identity.items() if k != "descriptor" or "weights" not in identity}


def _tasks(tracks: Sequence[Song], pairs: list[tuple[Method, Run]], save_audio: bool) -> list[Task]:
    """What is left to do, the longest tracks first: the processes end together then."""
    tasks = []
    for track in tracks:
        left = tuple(pair for pair in pairs if not _is_done(track, pair[1], save_audio))
        if left:
            tasks.append(Task(track, left, track_seconds(track), save_audio))
    return sorted(tasks, key=lambda task: -task.seconds)


def _is_done(track: Song, run: Run, save_audio: bool) -> bool:
    """Whether a track has scores that were taken on the files as they are."""
    path = run.path(track.subset, track.name)
    if track.fault or not path.is_file():
        return False
    if save_audio and not run.has_audio(track.subset, track.name):
        return False
    try:
        scores = read_scores(path)
        return scores.files == file_sizes(track) and tuple(scores.sources) == run.sources
    except SeparationError:
        return False


def _score_all(tasks: list[Task], settings: Settings) -> None:
    jobs = settings.jobs or default_jobs(max(task.seconds for task in tasks), tasks)
    total = sum(task.seconds for task in tasks)
    started, done = time.monotonic(), 0.0
    failures: dict[str, list[str]] = {}
    results = run_tasks(tasks, score_track, min(jobs, len(tasks)), settings.verbose)
    with contextlib.closing(results):
        for count, (task, outcomes) in enumerate(results, 1):
            if isinstance(outcomes, Failure):
                outcomes = [(None, outcomes)]
            done += task.seconds
            left = (time.monotonic() - started) * (total - done) / done if done else 0
            say(f"[{count}/{len(tasks)}] {task.track.name}, {duration(left)} left")
            for name, outcome in outcomes:
                if isinstance(outcome, Failure):
                    failures.setdefault(str(outcome), []).append(task.track.name)
                    say(f"  error: {outcome}")
                else:
                    say(f"  {name}: {_in_short(outcome)}")
    if failures:
        _complain(failures, settings)


def _complain(failures: dict[str, list[str]], settings: Settings) -> None:
    names = sorted({name for names in failures.values() for name in names})
    raise SeparationError(
        f"{len(names)} track(s) could not be scored ({', '.join(names)}), so there is no table: "
        "repair or remove them and run again, which does only what is missing, or name the others "
        f"with --tracks and choose another folder than {settings.output} with -o"
    )


def score_track(task: Task) -> list[tuple[str, TrackScores | Failure]]:
    """Separate and score one track by each of the task's methods; write the scores."""
    from spleeter_2.audio import stft

    stft.WORKERS = 1  # the processes share the cores already
    audio = load_track(task.track, task.methods[0][0].sources)
    outcomes: list[tuple[str, TrackScores | Failure]] = []
    for method, run in task.methods:
        try:
            outcomes.append((method.name, _score(method, run, task, audio)))
        except SeparationError as error:
            outcomes.append((method.name, Failure(f"{task.track.name}: {error}")))
    return outcomes


_ESTIMATORS: dict = {}  # of this process: a model is loaded once


def _score(method: Method, run: Run, task: Task, audio: TrackAudio) -> TrackScores:
    track = task.track
    if method not in _ESTIMATORS:
        _ESTIMATORS[method] = open_estimator(method)
    times = [time.perf_counter()]
    estimates = _ESTIMATORS[method](audio)
    times.append(time.perf_counter())
    sources = score(audio.references, estimates, audio.mixture, audio.sample_rate)
    times.append(time.perf_counter())
    kept = run.audio(track.subset, track.name)
    if task.save_audio or kept.is_dir():  # what is there may be of other audio, or not whole
        save_audio(kept, estimates, audio.sample_rate)
    scores = TrackScores(
        track.name,
        track.subset,
        len(audio.mixture),
        audio.sample_rate,
        file_sizes(track),
        audio.remainder,
        {"separation": times[1] - times[0], "scoring": times[2] - times[1]},
        sources,
    )
    write_scores(run.path(track.subset, track.name), scores)
    return scores


def save_audio(folder: Path, estimates: dict[str, np.ndarray], sample_rate: int) -> None:
    """Write estimates as they were scored: 16-bit WAV files, or floats beyond full scale.

    Raises:
        SeparationError: the folder cannot be written to.
    """
    for name, waveform in estimates.items():
        waveform = round_to_16_bits(waveform)
        fits = np.max(np.abs(waveform), initial=0) < 1
        # soundfile would scale floats by 32767, so that nobody could repeat the scores
        samples = (32768 * waveform).astype(np.int16) if fits else waveform
        with atomic_file(folder / f"{name}.wav") as path:
            try:
                soundfile.write(path, samples, sample_rate, "PCM_16" if fits else "FLOAT")
            except soundfile.LibsndfileError as error:
                raise SeparationError(f"cannot write to {folder}: {error}") from error


def default_jobs(longest: float, tasks: Sequence[Task]) -> int:
    """As many processes as there are cores and memory for.

    Args:
        longest: seconds of the longest track.
    """
    nb_sources = len(tasks[0].methods[0][0].sources)
    need = BASE_MEMORY + MEMORY_PER_MINUTE * nb_sources * longest / 60
    return max(1, min(os.cpu_count() or 1, int(0.8 * _memory() / need)))


def _report(runs: Sequence[Run], tracks: Sequence[Song]) -> None:
    """The tables, on the tracks asked for."""
    remainders = {}
    for run in runs:
        scores = [read_scores(run.path(track.subset, track.name)) for track in tracks]
        remainders = {track.name: track.remainder for track in scores}
        print(f"{familiar(run, scores)}\n\n{details(run, scores)}\n\nin {run.folder}\n")
    apart = {name: level for name, level in remainders.items() if level > SUMS}
    if apart:
        worst = max(apart, key=apart.__getitem__)
        say(
            f"note: in {len(apart)} of {len(tracks)} track(s) the mixture is not the sum of its "
            f"stems; what is left is {apart[worst]:.1f} dB against the mixture in {worst}"
        )


def _in_short(scores: TrackScores) -> str:
    told = ", ".join(f"{name} {scores.metric(name, METRICS[0]):.2f}" for name in scores.sources)
    return f"SDR {told}; {sum(scores.seconds.values()):.0f} s"


def duration(seconds: float) -> str:
    """``H:MM:SS``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def versions() -> dict[str, str]:
    """Of Python and of the packages that the numbers depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def hardware() -> dict[str, object]:
    """The machine, in a few words."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "memory in GB": round(_memory(), 1),
    }


def _memory() -> float:
    """Of the machine, in GB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return 8.0


def say(sentence: str) -> None:
    """Tell how far things are, beside the output."""
    print(sentence, file=sys.stderr, flush=True)
