"""Steps of a stream of items that run side by side, each in a thread of its own."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

_PATIENCE = 0.1  # seconds after which a waiting thread looks whether it is still needed
_END = object()


@dataclass(frozen=True)
class _Failure:
    error: BaseException


def pipeline(
    items: Iterable[Any],
    *functions: Callable[[Any], Any],
    limit: int = 2,
    newest_only: bool = False,
    stop: Event | None = None,
) -> Iterator[Any]:
    """Read items in one thread and apply each function in another, in order.

    To end early, close the iterator (`contextlib.closing`); the threads have then ended.

    Args:
        items: read in a thread; not read any further once the iterator is closed.
        functions: the first gets the items, the next what the first returns, and so on.
        limit: items that wait between two threads.
        newest_only: forget an item that waits for the first function when the next one arrives, as a camera needs it.
        stop: ends the iterator when somebody sets it, whatever is on its way.

    Yields:
        what the last function returns.

    Raises:
        whatever `items` or a function raises, in place of the item; RuntimeError where a function raises StopIteration.
    """
    stop = stop or Event()
    queues: list[Queue] = [Queue(1 if newest_only else limit), *(Queue(limit) for _ in functions)]
    threads = [Thread(target=_fill, args=(items, queues[0], stop, newest_only), daemon=True)]
    for function, source, target in zip(functions, queues, queues[1:], strict=False):
        results = _applied(function, _take(source, stop))
        threads.append(Thread(target=_fill, args=(results, target, stop), daemon=True))
    try:
        for thread in threads:
            thread.start()
        yield from _take(queues[-1], stop)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _applied(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """As `map`, which would take a function's StopIteration for the end of the items."""
    for item in items:
        yield function(item)


def _fill(items: Iterable[Any], queue: Queue, stop: Event, newest_only: bool = False) -> None:
    """Put all items and an end, or the error in place of an item."""
    try:
        for item in items:
            if stop.is_set():
                return
            _put(item, queue, stop, newest_only)
        _put(_END, queue, stop)
    except BaseException as error:
        _put(_Failure(error), queue, stop)


def _put(item: Any, queue: Queue, stop: Event, newest_only: bool = False) -> None:
    while not stop.is_set():
        try:
            queue.put(item, timeout=0.0 if newest_only else _PATIENCE)
            return
        except Full:
            if newest_only:
                _forget_oldest(queue)


def _forget_oldest(queue: Queue) -> None:
    try:
        queue.get_nowait()
    except Empty:
        return


def _take(queue: Queue, stop: Event) -> Iterator[Any]:
    while not stop.is_set():
        try:
            item = queue.get(timeout=_PATIENCE)
        except Empty:
            continue
        if item is _END:
            return
        if isinstance(item, _Failure):
            raise item.error
        yield item
