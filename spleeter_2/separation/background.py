"""Let the stages of a stream work at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()


def stage(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(function, items)`` in a thread of its own, one result in front of the consumer.

    An exception reaches the consumer in its turn. When the consumer stops early the thread ends
    with the item in work, and the consumer waits for that: a network that still computes while
    the interpreter shuts down would crash it.
    """
    ready: queue.Queue = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(result: object, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((result, error), timeout=0.05)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                put(function(item))
            put(_END)
        except BaseException as error:
            put(None, error)
        finally:
            if isinstance(items, Iterator) and hasattr(items, "close"):
                items.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            result, error = ready.get()
            if error is not None:
                raise error
            if result is _END:
                return
            yield result
    finally:
        stopped.set()
        # a source that waits for standard input may never come back, and does no harm
        thread.join(timeout=5)
