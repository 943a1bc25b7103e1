"""Tasks for workers, and a Dask cluster of processes apart."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from spleeter_2.errors import SeparationError
from spleeter_2.files import atomic_file

TESTS = Path(__file__).parents[1]


def misbehave(task: str) -> str:
    """Answer, complain, fail, or die."""
    if task == "complain":
        raise SeparationError("this cannot be done")
    if task == "fail":
        raise ZeroDivisionError("oops")
    if task == "crowd":
        raise RuntimeError("can't start new thread")
    if task == "memory":
        raise MemoryError
    if task == "disk":
        raise OSError(28, "No space left on device", "/out/song.wav")
    if task == "exit":
        sys.exit(3)
    if task == "lambda":
        return lambda: None
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{task} with {os.environ['OMP_NUM_THREADS']} thread(s)"


def is_profiled(_: object) -> bool:
    """True if Dask stops the task's thread every some milliseconds."""
    import dask

    return dask.config.get("distributed.worker.profile.enabled")


def die_once(path: Path) -> int:
    """Die the first time; later return the process."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def process_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def greedy(nb_bytes: int) -> int:
    """Fill as much memory."""
    content = bytearray(os.urandom(1 << 16) * (nb_bytes >> 16))
    time.sleep(1)
    return len(content)


def blocked(task: object) -> bool:
    """Whether the process is spared Ctrl-C."""
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def stubborn(path: Path) -> None:
    """No end of it within a minute; "short" ends when "long" has begun."""
    if path.name == "short":
        return until(path.with_name("long").exists)
    path.touch()
    with contextlib.suppress(BaseException):
        wait()
    wait()


def half_written(path: Path) -> None:
    """Write a file for as long as one lets it; "short" ends when "long" has begun."""
    if path.name == "short":
        return until(lambda: list(path.parent.glob(".spleeter-2-*-long")))
    with atomic_file(path):
        wait()


def wait() -> None:
    """Wait a minute, in short pieces as computing does."""
    for _ in range(6000):
        time.sleep(0.01)


def until(condition, seconds: float = 20.0) -> None:
    """Wait until a function returns something true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Processes:
    """A scheduler and its workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.running = folder, []
        self.file = str(folder / "scheduler.json")
        self._numbers = itertools.count()
        options = "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
        self.scheduler = self._start("scheduler", *options)
        until(lambda: os.path.exists(self.file))

    def start_worker(self, *options: object) -> None:
        folder = self.folder / str(next(self._numbers))
        self._start("worker", "--no-dashboard", "--local-directory", folder, *options)

    def _start(self, what: str, *options: object) -> subprocess.Popen:
        module = f"distributed.cli.dask_{what}"
        command = [sys.executable, "-m", module, "--scheduler-file", self.file, *options]
        path = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        started = subprocess.Popen(
            list(map(str, command)),
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path),
                "DASK_LOGGING__DISTRIBUTED": "critical",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.running.append(started)
        return started

    def stop(self) -> None:
        """Kill all; the process that a worker's nanny has started ends with it."""
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()


@contextlib.contextmanager
def cluster_of(folder: Path, nb_workers: int) -> Iterator[Processes]:
    processes = Processes(folder)
    try:
        for _ in range(nb_workers):
            processes.start_worker("--nthreads", 1)
        yield processes
    finally:
        processes.stop()
