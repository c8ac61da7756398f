"""Stages that run side by side."""

import threading
import time
from contextlib import closing

import pytest

from mtaclip.demo.pipeline import pipeline


def test_results_come_in_order_through_all_functions():
    assert list(pipeline(range(50), lambda x: x + 1, lambda x: 2 * x)) == [2 * (x + 1) for x in range(50)]
    assert list(pipeline([])) == []


def test_each_function_has_its_own_thread_and_they_overlap():
    """Two functions meet at a barrier, each with another item: one thread could never pass it."""
    barrier = threading.Barrier(2, timeout=10)
    seen = []

    def first(item):
        if item > 0:
            barrier.wait()
        return item, threading.get_ident()

    def second(pair):
        if pair[0] < 4:
            barrier.wait()
        return *pair, threading.get_ident()

    for _, a, b in pipeline(range(5), first, second):
        seen.append({a, b, threading.get_ident()})
    assert [len(threads) for threads in seen] == [3] * 5


def test_somebody_else_may_end_it_while_nothing_comes():
    stop, asked = threading.Event(), threading.Event()

    def source():
        yield 1
        asked.set()
        stop.wait(30)

    threading.Thread(target=lambda: asked.wait(30) and stop.set()).start()
    assert list(pipeline(source(), stop=stop)) in ([], [1])
    assert stop.is_set()


def test_an_error_arrives_after_the_items_before_it():
    def source():
        yield 1
        yield 2
        raise ValueError("the file ends here")

    results = pipeline(source(), lambda x: 10 * x)
    assert [next(results), next(results)] == [10, 20]
    with pytest.raises(ValueError, match="the file ends here"):
        next(results)
    with pytest.raises(ZeroDivisionError):
        list(pipeline([1, 0], lambda x: 1 / x))


def test_a_function_that_raises_stop_iteration_does_not_end_the_stream_silently():
    def first_match(item):
        return next(iter(item))

    results = pipeline([[1], [], [3]], first_match)
    assert next(results) == 1
    with pytest.raises(RuntimeError) as raised:
        next(results)
    assert isinstance(raised.value.__cause__, StopIteration)


def test_no_more_is_read_than_fits_between_the_threads_and_closing_ends_them():
    read = []

    def source():
        for item in range(1000):
            read.append(item)
            yield item

    before = threading.active_count()
    with closing(pipeline(source(), lambda x: x, limit=2)) as results:
        assert next(results) == 0
        time.sleep(0.3)
        # One taken, two queues of two, one in the hand of each of the two threads.
        assert len(read) <= 1 + 2 * 2 + 2
    assert threading.active_count() == before


def test_newest_only_forgets_what_waits():
    arrived = threading.Event()

    def camera():
        yield from range(100)
        arrived.set()

    def slow(item):
        arrived.wait(10)
        return item

    results = list(pipeline(camera(), slow, newest_only=True))
    assert len(results) <= 2
    assert results[-1] == 99
