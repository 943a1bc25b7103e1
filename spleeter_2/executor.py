"""Tasks in several processes, here or on a cluster, by Dask.

A task is an object that can be pickled, a function one that workers can import by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .checks import check_path, check_whole
from .errors import SeparationError


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

    Args:
        tasks: iterated as workers become free, one task per worker at a time.
        verbose: print tracebacks of unexpected exceptions, and Dask's messages.
        threads: per task (default: cores // jobs; on a cluster, the threads of the worker).
        memory: bytes per process of this machine (default: an equal share of all).
        on_start: called with the address of the dashboard, if there is one.

    Yields:
        Task and result in order of completion; a ``Failure`` in place of the result if the
        function raised, or if two processes died of the task. Closing the generator drops what
        waits and interrupts what runs.

    Raises:
        SeparationError: Dask is not installed, the scheduler cannot be reached or was lost, or
            the workers have another version.
    """
    raise NotImplementedError
    yield
