import threading
import time

import pytest

from spleeter_2.separation.background import in_background, meanwhile


def test_order_and_one_ahead():
    started = []

    def work(item):
        started.append(item)
        return item * item

    results = in_background(map(work, range(10)))
    assert next(results) == 0
    time.sleep(0.2)
    assert len(started) <= 3  # one given, one waiting, one in hand
    assert list(results) == [item * item for item in range(1, 10)]


def test_an_exception_comes_in_its_turn():
    def work(item):
        if item == 2:
            raise ValueError("two")
        return item

    results = in_background(map(work, range(5)))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


def test_stopping_early_ends_all_threads_and_closes_the_source():
    closed = []

    def source():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    before = threading.active_count()

    def plus_one():
        for item in in_background(source()):
            yield item + 1

    results = in_background(plus_one())
    assert next(results) == 1
    results.close()
    assert threading.active_count() == before and closed == [True]


def test_a_function_and_a_block_are_waited_for():
    ended = []

    def work():
        time.sleep(0.2)
        ended.append("work")
        raise ValueError("work")

    with meanwhile(work) as check:
        assert not ended
    assert ended == ["work"]
    with pytest.raises(ValueError, match="work"):
        check()
    with pytest.raises(KeyError), meanwhile(work):
        raise KeyError
    assert ended == ["work", "work"]


def test_an_interrupt_does_not_wait_for_a_function():
    """Whose imports may wait for a lock that the interrupted thread still has."""
    end = threading.Event()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), meanwhile(lambda: end.wait(30)):
        raise KeyboardInterrupt
    assert time.monotonic() - start < 5
    end.set()
