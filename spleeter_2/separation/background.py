"""Iterate in a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def in_background(items: Iterable[Item]) -> Iterator[Item]:
    """Iterate over ``items`` in a background thread, one item ahead of the consumer.

    An exception of ``items`` is raised in the consumer, after the items before it. A consumer that
    stops early waits up to 5 s for the thread to finish its current item, since the interpreter
    crashes if it shuts down while TensorFlow is computing.

    Args:
        items: iterated, and closed if it is a generator, in the background thread only.
    """
    ready: queue.Queue = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(item: object, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((item, error), timeout=0.05)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                if stopped.is_set():
                    return
                put(item)
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
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        # bounded: a read from standard input may block forever, and the daemon thread is harmless
        thread.join(timeout=5)
