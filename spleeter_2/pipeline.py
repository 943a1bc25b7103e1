"""Let the stages of a stream work at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_END = object()


def prefetch(items: Iterable[T], ahead: int = 1) -> Iterator[T]:
    """Iterate in a thread of its own, at most ``ahead`` items in front of the consumer.

    An exception of the source reaches the consumer in its turn. When the consumer stops early,
    the thread ends at the next item.
    """
    ready: queue.Queue = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: object) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:
            put((None, error))
        put((_END, None))

    threading.Thread(target=work, daemon=True).start()
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
