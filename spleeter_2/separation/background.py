"""Iterate, or call a function, in a background thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


@contextlib.contextmanager
def meanwhile(function: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Call a function in a background thread while the block runs, and wait for both.

    An interrupt does not wait: if a signal's exception hits an import of the main thread, the lock
    of all imports may stay locked (Python 3.11), and a thread that imports never ends.

    Yields:
        A function that raises the exception of the thread, to be called after the block.
    """
    failures: list[BaseException] = []

    def work() -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    def check() -> None:
        if failures:
            raise failures[0]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield check
    except Exception:
        thread.join()
        raise
    thread.join()


def in_background(items: Iterable[Item]) -> Iterator[Item]:
    """Iterate over ``items`` in a background thread, one item ahead of the consumer.

    An exception of ``items`` is raised in the consumer, after the items before it. A consumer that
    stops early waits up to 5 s for the thread to finish its current item, since the interpreter
    crashes if it shuts down while TensorFlow is computing.

    Args:
        items: iterated, and closed if it is a generator, in the background thread only.
    """
    ready: queue.Queue = queue.Queue()
    room = threading.Semaphore(1)  # of one item, that is computed or waits
    stopped = threading.Event()

    def work() -> None:
        try:
            item, iterator = None, iter(items)
            while item is not _END:
                room.acquire()
                if stopped.is_set():
                    return
                item = next(iterator, _END)
                ready.put((item, None))
        except BaseException as error:
            ready.put((None, error))
        finally:
            if isinstance(items, Iterator) and hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            room.release()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        room.release()
        # bounded: a read from standard input may block forever, and the daemon thread is harmless
        thread.join(timeout=5)
