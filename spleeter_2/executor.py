"""Tasks in several processes, of this machine or of a cluster, by dask.distributed.

``run_tasks`` gives every worker one task at a time and decides by itself where a task goes: with
more, Dask's scheduler would blame tasks that only waited for the death of their worker, and keep
songs behind a long one while other workers are idle. Tasks and functions are pickled here, by name:
workers need the package installed, and Dask never looks into a task.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import pickle
import queue
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .audio import stft
from .checks import check_path, check_whole
from .console import SIGNALS, reason, signal_handlers
from .errors import SeparationError
from .extras import require_extra
from .files import temporary_folder

log = logging.getLogger(__name__)

# variables that limit the threads of linear algebra, of ONNX Runtime and of TensorFlow
THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
GRACE = 60.0  # seconds to end what runs: writing a large checkpoint takes some
PATIENCE = 60.0  # seconds without any process of this machine after which none will start
POLL = 1.0  # seconds between looks at which workers there are
CONNECT = 10.0  # seconds to reach a scheduler
MOST_DEATHS = 2  # of workers, after which their task is not tried again
_ADDRESS = re.compile(r"([a-z]+://)?[^/\s]+:[0-9]+")
_MEMORY_TOPIC = "worker-restart-memory"  # of events of Dask's nannies

# Dask's settings for processes of this machine, whatever the user's files of configuration have
_LOCAL = {
    "distributed.worker.daemon": True,
    "distributed.worker.multiprocessing-method": "spawn",
    "distributed.worker.preload": [],
    "distributed.worker.preload-argv": [],
    "distributed.nanny.preload": [],
    "distributed.nanny.preload-argv": [],
    "distributed.nanny.environ": {},
    "distributed.scheduler.preload": [],
    "distributed.scheduler.preload-argv": [],
    "distributed.scheduler.blocked-handlers": [],
    "distributed.worker.blocked-handlers": [],
    "distributed.worker.resources": {},
    # results are small: nothing to move to the disk, and no pause, which would last for ever
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    "distributed.worker.profile.enabled": False,  # it stops the task's thread every 10 ms
    "distributed.comm.require-encryption": None,
}
_LOGGERS = ("distributed", "distributed.client", "bokeh", "tornado", "tornado.application")


@dataclass(frozen=True)
class Cluster:
    """Where tasks run.

    Attributes:
        jobs: N processes of this machine, one task at a time each; None: none of its own.
        address: of a Dask scheduler, "tcp://scheduler:8786", or path of its scheduler file; it
            excludes ``jobs``.

    Raises:
        SeparationError: ``jobs`` below 1, another type, both or neither given.
    """

    jobs: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None:
            jobs = check_whole("--jobs", self.jobs)
            if jobs < 1:
                raise SeparationError(f"--jobs must be positive, not {jobs}")
            object.__setattr__(self, "jobs", jobs)
        if self.address is not None:
            object.__setattr__(self, "address", check_path("--cluster", self.address))
        if (self.jobs is None) == (self.address is None):
            raise SeparationError("give either --jobs, for this machine, or --cluster")


class Failure(str):
    """An error message in place of a task's result."""


def run_tasks(
    tasks: Iterable[Any],
    function: Callable[[Any], Any],
    cluster: Cluster,
    verbose: bool = False,
    threads: int | None = None,
    memory: float | None = None,
    on_start: Callable[[str], None] | None = None,
) -> Iterator[tuple[Any, Any]]:
    """Run a function on each task.

    A task whose worker dies is run again, once.

    Args:
        tasks: iterated as workers become free, one task per worker at a time; picklable, as
            results are.
        function: importable by name.
        verbose: print tracebacks of unexpected exceptions, and Dask's messages.
        threads: per task (default: cores // jobs; on a cluster, the threads of the worker).
        memory: bytes per process of this machine, which is killed at 95 % (default: an equal
            share of all).
        on_start: called with the address of the dashboard, if there is one.

    Yields:
        Task and result in order of completion; a ``Failure`` in place of the result if the
        function raised, or if two workers died of the task. Closing the generator drops what
        waits, raises an exception in what runs, and waits for its end; it kills processes of this
        machine after ``GRACE`` seconds.

    Raises:
        SeparationError: Dask is not installed, the scheduler cannot be reached or was lost, or
            a worker has another version.
    """
    require_extra("cluster", "work in several processes")
    with _connected(cluster, threads, memory, verbose) as (client, facts):
        if on_start and (dashboard := _dashboard_of(client)):
            on_start(dashboard)
        run = _Run(client, function, facts, verbose)
        try:
            yield from run.results(iter(tasks))
        finally:
            run.stop()


def log_dashboard(address: str) -> None:
    """``on_start`` of a command: log where its run can be watched."""
    log.info(f"dashboard: {address}")


@dataclass(frozen=True)
class _Facts:
    """What a run has to know of its cluster.

    Attributes:
        place: for messages.
        hint: end of the message about a lost connection.
        threads: per task; None: those of the worker.
        memory: limit of a process in bytes; None on a foreign cluster.
    """

    place: str
    threads: int | None
    memory: int | None
    hint: str = ""

    @property
    def is_foreign(self) -> bool:
        return self.memory is None


@dataclass(eq=False)
class _Attempt:
    """A task on its way; ``deaths`` counts the workers that died of it."""

    task: Any
    deaths: int = 0
    worker: str = ""
    future: Any = None


@dataclass
class _Run:
    """The client's side of ``run_tasks``."""

    client: Any
    function: Callable[[Any], Any]
    facts: _Facts
    verbose: bool
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        self.workers: dict[str, bool] = {}  # address -> it can be used
        self.in_work: dict[str, _Attempt] = {}  # by worker
        self.again: deque[_Attempt] = deque()
        self.results_ready: deque[tuple[Any, Any]] = deque()
        self.done: queue.SimpleQueue[_Attempt] = queue.SimpleQueue()
        self.has_more = True
        self.looked = -POLL
        self.had_workers = time.monotonic()
        self.is_waiting_told = False

    def results(self, tasks: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        """See ``run_tasks``."""
        while True:
            try:
                self._look_at_workers()
                self._give(tasks)  # before the caller works on a result
            except SeparationError:
                yield from self.results_ready
                raise
            if self.results_ready:
                yield self.results_ready.popleft()
                self._take(wait=0)
            elif self.in_work or self.again or self.has_more:
                self._take(wait=POLL)
            else:
                return

    def stop(self) -> None:
        """Drop what is left of a run that was closed early; wait for the tasks in work."""
        if not self.in_work or self.client.status != "running":
            return
        with contextlib.suppress(Exception):  # a scheduler that is lost now has no tasks either
            self.client.cancel([attempt.future for attempt in self.in_work.values()])
            workers = [*set(self.in_work) & set(self.client.nthreads())]
            if workers:
                self.client.run(_end, self.name, GRACE, workers=workers, on_error="ignore")

    def _give(self, tasks: Iterator[Any]) -> None:
        """Give a task to every idle worker."""
        for worker, is_usable in self.workers.items():
            if not is_usable or worker in self.in_work:
                continue
            if self.again:
                attempt = self.again.popleft()
            else:
                attempt = _next_attempt(tasks) if self.has_more else None
                if attempt is None:
                    self.has_more = False
                    return
            self._submit(attempt, worker)

    def _submit(self, attempt: _Attempt, worker: str) -> None:
        content = pickle.dumps((self.function, attempt.task))
        attempt.worker = worker
        self.in_work[worker] = attempt
        with self._watching():
            attempt.future = self.client.submit(
                _work,
                content,
                self.name,
                self.verbose,
                key=f"spleeter-2-{self.name}-{secrets.token_hex(8)}",
                workers=[worker],
                allow_other_workers=False,
                pure=False,
            )
            attempt.future.add_done_callback(lambda _: self.done.put(attempt))

    def _take(self, wait: float) -> None:
        """Collect what is done; wait until something is, at most ``wait`` seconds."""
        with contextlib.suppress(queue.Empty):
            attempt = self.done.get(timeout=wait) if wait else self.done.get_nowait()
            while True:
                self._end_attempt(attempt)
                attempt = self.done.get_nowait()
        if self.client.status != "running" and not self.results_ready:
            raise self._lost()

    def _end_attempt(self, attempt: _Attempt) -> None:
        """Store the result of an attempt that is done, or try again."""
        future = attempt.future
        if self.in_work.get(attempt.worker) is not attempt or future.status in ("pending", "lost"):
            return  # its worker died: ``_look_at_workers`` has seen it, or will
        if future.status == "cancelled":  # by Dask, when it lost the scheduler, or by another
            if self.client.status == "running":
                self._release(attempt)
                self.again.append(attempt)
            return
        try:
            result = pickle.loads(future.result(timeout=CONNECT))
        except Exception as error:
            if isinstance(error, _timeouts()):  # the worker died with the result
                self.done.put(attempt)
                return
            if type(error).__name__ == "KilledWorker":  # counted by Dask, at an unchanged address
                self._count_death(attempt, 1 + error.allowed_failures)
                return
            result = _failure(error)
        self._release(attempt)
        self.results_ready.append((attempt.task, result))

    def _release(self, attempt: _Attempt) -> None:
        del self.in_work[attempt.worker]
        attempt.future.release()

    def _look_at_workers(self) -> None:
        """Find out which workers are new, and which have died."""
        if time.monotonic() < self.looked + POLL:
            return
        with self._watching():
            present = self.client.nthreads()
            new = [worker for worker in present if worker not in self.workers]
            if new:
                self._introduce(new)
        for worker in [worker for worker in self.workers if worker not in present]:
            del self.workers[worker]
            if worker in self.in_work:
                self._count_death(self.in_work[worker])
        self._wait_for_workers()
        self.looked = time.monotonic()

    def _introduce(self, new: list[str]) -> None:
        """Prepare new workers, and leave out those that have another version.

        Raises:
            SeparationError: one that is there from the start.
        """
        arguments = self.facts.threads, not self.facts.is_foreign
        found = self.client.run(_prepare, *arguments, workers=new, on_error="return")
        for worker in new:
            answer = found.get(worker)
            if answer is None or isinstance(answer, (OSError, *_timeouts())):
                continue  # it is gone already
            fault = None
            if isinstance(answer, Exception):
                fault = f"cannot import spleeter-2 ({type(answer).__name__}: {answer})"
            elif answer != _version():
                fault = f"has spleeter-2 {answer}"
            if fault:
                fault = f"the worker {worker} {fault}: install spleeter-2 {_version()} there"
                if self.looked < 0:
                    raise SeparationError(fault)
                log.warning(f"note: {fault}; it gets no tasks")
            self.workers[worker] = not fault

    def _count_death(self, attempt: _Attempt, deaths: int = 1) -> None:
        """Try a task again after the death of its worker, or give it up."""
        self._release(attempt)
        attempt.deaths += deaths
        if attempt.deaths < MOST_DEATHS:
            self.again.append(attempt)
        else:
            message = self._describe_deaths(attempt.worker)
            self.results_ready.append((attempt.task, Failure(message)))

    def _describe_deaths(self, worker: str) -> str:
        with contextlib.suppress(Exception):
            events = self.client.get_events(_MEMORY_TOPIC)
            if any(event["worker"] == worker for _, event in events):
                if self.facts.is_foreign:
                    return "memory ran out: its worker reached its limit, raise that"
                limit = f"{self.facts.memory / 1e9:.1f} GB"
                return f"memory ran out: a process may have {limit} here, try fewer --jobs"
        return (
            f"its process was killed, {MOST_DEATHS} times: perhaps memory ran out, try fewer --jobs"
        )

    def _wait_for_workers(self) -> None:
        """Raise SeparationError if no process of this machine is left; log a note on a cluster."""
        if any(self.workers.values()):
            self.had_workers = time.monotonic()
            self.is_waiting_told = False
        elif self.facts.is_foreign and not self.is_waiting_told:
            log.info(f"note: {self.facts.place} has no workers that can be used: waiting for some")
            self.is_waiting_told = True
        elif not self.facts.is_foreign and time.monotonic() > self.had_workers + PATIENCE:
            raise SeparationError("no process can be started any more: perhaps memory ran out")

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Turn exceptions of a lost connection into one sentence."""
        try:
            yield
        except (SeparationError, MemoryError):
            raise
        except Exception as error:
            raise self._lost() from error

    def _lost(self) -> SeparationError:
        return SeparationError(
            f"the connection to {self.facts.place} was lost: what is done is kept, run the same "
            f"command again for the rest{self.facts.hint}"
        )


def _timeouts() -> tuple[type[Exception], ...]:
    """Dask's own is another than Python's before Python 3.11."""
    import distributed

    return TimeoutError, distributed.TimeoutError


def _next_attempt(tasks: Iterator[Any]) -> _Attempt | None:
    for task in tasks:
        return _Attempt(task)
    return None


# connections


@contextlib.contextmanager
def _connected(
    cluster: Cluster, threads: int | None, memory: float | None, verbose: bool
) -> Iterator[tuple[Any, _Facts]]:
    """A client of Dask's."""
    with contextlib.ExitStack() as stack:
        distributed = _import_distributed(verbose)
        if cluster.address is not None:
            with interrupts_deferred():
                client, hint = _client_of(cluster.address)
                stack.callback(_close, client)
            yield client, _Facts(f"the scheduler {cluster.address}", threads, None, hint)
            return
        from dask.system import CPU_COUNT
        from distributed.system import MEMORY_LIMIT

        threads = threads or max(1, CPU_COUNT // cluster.jobs)
        memory = int(memory or MEMORY_LIMIT / cluster.jobs)
        stack.enter_context(_local_environment(threads, verbose))
        folder = tempfile.TemporaryDirectory(
            prefix="spleeter-2-", dir=temporary_folder(), ignore_cleanup_errors=True
        )
        stack.enter_context(folder)
        others = set(multiprocessing.active_children())
        with interrupts_deferred():
            local = _start_processes(distributed, cluster.jobs, memory, folder.name, verbose)
            stack.callback(_kill_rest, others)
            stack.callback(_close, local)
            client = distributed.Client(local, set_as_default=False)
            stack.callback(_close, client)
        yield client, _Facts("the processes", threads, memory)


def _import_distributed(verbose: bool) -> Any:
    """Import dask.distributed, silent unless ``verbose``.

    Raises:
        SeparationError: a file of Dask's configuration is damaged.
    """
    try:
        import dask

        if not verbose:
            dask.config.set({"logging": dict.fromkeys(_LOGGERS, "critical")})
        import distributed
    except (ValueError, OSError) as error:
        fault = str(error).splitlines()[0]
        raise SeparationError(f"Dask cannot be imported: {fault}") from error
    if not verbose:
        for name in (*_LOGGERS, "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    return distributed


def _client_of(address: str) -> tuple[Any, str]:
    """A client of a scheduler that runs already, and a hint if that has another Dask.

    Raises:
        SeparationError: it cannot be reached.
    """
    import distributed

    options = {"timeout": CONNECT, "set_as_default": False}
    if Path(address).is_file():
        options["scheduler_file"] = address
    elif _ADDRESS.fullmatch(address):
        options["address"] = address
    else:
        raise SeparationError(
            f"--cluster must be the address of a scheduler, as in tcp://scheduler:8786, or an "
            f"existing scheduler file, not {address}"
        )
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            client = distributed.Client(**options)
    except Exception as error:
        fault = str(error).strip().splitlines() or [type(error).__name__]
        raise SeparationError(f"cannot reach the scheduler {address}: {fault[0]}") from error
    has_another = any("| distributed " in str(warning.message) for warning in caught)
    return client, "; install the same version of distributed there and here" * has_another


def _start_processes(distributed: Any, jobs: int, memory: int, folder: str, verbose: bool) -> Any:
    """A ``LocalCluster``.

    Raises:
        SeparationError: the processes cannot be started.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return distributed.LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                protocol="tcp://",
                memory_limit=memory,
                local_directory=folder,
                dashboard_address="127.0.0.1:0",
                silence_logs=False if verbose else logging.CRITICAL,
            )
    except Exception as error:
        fault = reason(error) or f"{type(error).__name__}: {error}"
        raise SeparationError(f"cannot start {jobs} processes: {fault}") from error


def _close(connected: Any) -> None:
    """Close a client or a ``LocalCluster``."""
    with contextlib.suppress(Exception):
        connected.close(timeout=10)


def _kill_rest(others: set) -> None:
    """Kill processes of a ``LocalCluster`` that its end has left, all but some others."""
    for process in set(multiprocessing.active_children()) - others:
        if process.name.startswith("Dask Worker process"):
            process.kill()
            process.join()


@contextlib.contextmanager
def _local_environment(threads: int, verbose: bool) -> Iterator[None]:
    """Variables and Dask's settings for processes of this machine, as they are started."""
    import dask

    settings = {**_LOCAL, "distributed.nanny.pre-spawn-environ": dict.fromkeys(THREADS, threads)}
    if not verbose:
        settings["logging"] = dict.fromkeys(_LOGGERS, "critical")
    with dask.config.set(settings):
        variables = {
            **dict.fromkeys(THREADS, str(threads)),
            "DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(dask.config.global_config),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED"),  # Dask sets it
        }
        with _environment(variables):
            yield


def _dashboard_of(client: Any) -> str | None:
    """Address of a scheduler's dashboard; None if it has none, or only the page that says so."""
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(Exception):
        address = client.dashboard_link
        with opener.open(address, timeout=2) as page:
            return None if b"Dask needs bokeh" in page.read() else address
    return None


# workers

_turn = threading.Lock()  # one task at a time, whatever the threads of the worker
_state = threading.Lock()  # of the two below
_current: tuple[str, int] | None = None  # run and thread of the task in work
_ended: set[str] = set()  # runs that were closed


class _Interrupted(BaseException):
    """The run of a task was closed; raised in its thread."""


def _version() -> str:
    """Version of this package, which imports the separator: no import of this module's."""
    return sys.modules[__package__].__version__


def _prepare(threads: int | None, is_own: bool, dask_worker: Any) -> str:
    """Set the number of threads of a worker; return the version of this package.

    Args:
        is_own: a process of ``run_tasks``, which ends it in another way than by SIGTERM, should a
            signal to all processes of a group reach it.
    """
    if threads is None:
        threads = min(dask_worker.state.nthreads, os.cpu_count() or 1)
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    stft.WORKERS = min(stft.WORKERS, threads)
    if is_own:
        signal.signal(signal.SIGTERM, lambda *_: None)  # not SIG_IGN, which ffmpeg would inherit
    return _version()


def _work(content: bytes, run: str, verbose: bool) -> bytes:
    """Run one task in a worker; a pickled ``Failure`` in place of the result if it raises."""
    global _current
    try:
        with _turn:
            with _state:
                if run in _ended:
                    raise _Interrupted
                _current = run, threading.get_ident()
            try:
                function, task = pickle.loads(content)
                return pickle.dumps(function(task))
            finally:
                with _state:
                    _current = None
                    _raise_in(threading.get_ident(), None)  # one that has not been raised yet
    except BaseException as error:
        if verbose and not isinstance(error, SeparationError | MemoryError | _Interrupted):
            traceback.print_exc()
        return pickle.dumps(_failure(error))


def _failure(error: BaseException) -> Failure:
    if isinstance(error, _Interrupted):
        return Failure("it was interrupted")
    if isinstance(error, SeparationError):
        return Failure(error)
    if isinstance(error, MemoryError):
        return Failure("not enough memory: try fewer --jobs")
    return Failure(
        reason(error)
        or f"this should not happen ({type(error).__name__}: {error}); --verbose shows where, "
        "please report it"
    )


async def _end(run: str, seconds: float) -> None:
    """Interrupt a run's task in this worker; wait for its end, at most some seconds.

    Half-written files are removed, a training saves its state.
    """
    import asyncio  # not needed to separate in one process

    with _state:
        _ended.add(run)
        if _current is not None and _current[0] == run:
            _raise_in(_current[1], _Interrupted)
    deadline = time.monotonic() + seconds
    while _current is not None and _current[0] == run and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Raise an exception in a thread before its next bytecode; None: take back the last one."""
    raised = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Defer Ctrl-C, and other signals to the program, until processes are started.

    Threads and processes that are started within inherit the blocked signals of a terminal, so
    they never receive them. The mask is not enough for the parent: another of its threads may
    receive the signal, and Python would run the handler in the middle of the start.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # started later, it would unblock the signal
    received: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = signal_handlers()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS) - {signal.SIGTERM})
    for number in handlers:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if received:
            signal.raise_signal(received[0])


@contextlib.contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """Set environment variables, and restore them afterwards; None: only restore."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if value is not None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
