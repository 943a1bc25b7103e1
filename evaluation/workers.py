"""Tasks in several processes; a process that is killed costs its own task only."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, get_context, resource_tracker
from typing import Any

from spleeter_2.console import SIGNALS, reason, signal_handlers
from spleeter_2.errors import SeparationError

# variables that limit the threads of linear algebra and of TensorFlow
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
GRACE = 60.0  # seconds from SIGTERM to SIGKILL: writing a large checkpoint takes some


class Failure(str):
    """An error message in place of a task's result."""


class _Worker:
    """A process that runs one task at a time."""

    def __init__(self, function: Callable[[Any], Any], verbose: bool, threads: int) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function, verbose), daemon=True)
        environment = {**dict.fromkeys(THREADS, str(threads)), "TF_CPP_MIN_LOG_LEVEL": "3"}
        with _environment(environment), interrupts_deferred():
            self.process.start()
        theirs.close()
        self.task: Any = None

    def give(self, task: Any) -> None:
        self.task = task
        with contextlib.suppress(OSError):  # it has just ended: ``answer`` returns a Failure
            self.connection.send(task)

    def answer(self) -> Any:
        """Wait for the result; a ``Failure`` if the process ended without one."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Failure(_describe_end(self.process.exitcode))

    @property
    def is_alive(self) -> bool:
        return self.process.is_alive()

    def stop(self, deadline: float) -> None:
        """Wait for the end until ``time.monotonic()`` reaches the deadline, then kill."""
        self.process.join(max(0, deadline - time.monotonic()))
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_tasks(
    tasks: Iterable[Any],
    function: Callable[[Any], Any],
    jobs: int,
    verbose: bool = False,
    threads: int = 1,
) -> Iterator[tuple[Any, Any]]:
    """Run a function on each task, in ``jobs`` processes with ``threads`` threads each.

    Args:
        function: importable by name; tasks and results must be picklable.
        verbose: print tracebacks of unexpected exceptions.

    Yields:
        Task and result in order of completion; a ``Failure`` in place of the result if the
        function raised or its process was killed. Closing the generator ends the processes by
        SIGTERM, and by SIGKILL after ``GRACE`` seconds.
    """
    waiting = deque(tasks)
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.task is not None for worker in workers):
            for worker in [worker for worker in workers if not worker.is_alive]:
                if worker.task is None:
                    workers.remove(worker)
            idle = [worker for worker in workers if worker.task is None]
            while waiting and (idle or len(workers) < jobs):
                if not idle:
                    workers.append(_Worker(function, verbose, threads))
                    idle = [workers[-1]]
                idle.pop().give(waiting.popleft())
            busy = {worker.connection: worker for worker in workers if worker.task is not None}
            for ready in connection.wait(list(busy)):
                worker = busy[ready]
                result, task = worker.answer(), worker.task
                worker.task = None
                yield task, result
    finally:
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE
        for worker in workers:
            worker.stop(deadline)


def _serve(pipe: connection.Connection, function: Callable[[Any], Any], verbose: bool) -> None:
    """Run tasks until the other end of the pipe is closed; SIGTERM raises SystemExit."""
    signal.signal(signal.SIGTERM, _exit)
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = pipe.recv()
            try:
                result = function(task)
            except SeparationError as error:
                result = Failure(error)
            except MemoryError:
                result = Failure("not enough memory: try fewer --jobs")
            except Exception as error:
                if verbose:
                    traceback.print_exc()
                result = Failure(
                    reason(error)
                    or f"this should not happen ({type(error).__name__}: {error}); --verbose "
                    "shows where, please report it"
                )
            pipe.send(result)


def _exit(number: int, _frame: object) -> None:
    """Exit with clean-up: half-written files are removed, a training saves its state."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _describe_end(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        hint = ": perhaps memory ran out, try fewer --jobs" if status == -9 else ""
        return f"its process was ended by {name}{hint}"
    return f"its process ended with status {status}"


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C, and other signals to the program, until a process is started.

    The process inherits the blocked signals of a terminal, so it never receives them itself. The
    mask is not enough for the parent: another of its threads may receive the signal, and Python
    would run the handler in the middle of ``Process.start``, whose child would fail with a
    traceback.
    """
    resource_tracker.ensure_running()  # started later, it would unblock the signal
    received: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = signal_handlers()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS) - {signal.SIGTERM})
    if in_main_thread:
        for number in handlers:
            signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        if in_main_thread:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if received:
            signal.raise_signal(received[0])


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
