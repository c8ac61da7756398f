"""How far a long task is, and how long it still takes."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

LOG_SECONDS = 5.0  # between two lines where there is no terminal

logger = logging.getLogger(__name__)


def progress(items: Iterable[Any], total: int | None, unit: str, log_seconds: float = LOG_SECONDS) -> Iterator[Any]:
    """Hand on items and say how far it is: by a bar on a terminal, else by a line in the log every few seconds.

    Args:
        items: any.
        total: their number, if it is known.
        unit: what one of them is called.
        log_seconds: between two lines.
    """
    if sys.stderr.isatty():
        with logging_redirect_tqdm(loggers=[logging.getLogger("mtaclip")]):
            yield from tqdm(items, total=total, unit=unit, dynamic_ncols=True)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= log_seconds:
            last = now
            logger.info("%s %d%s", unit, count, _rest(count, total, now - start))


def _rest(count: int, total: int | None, seconds: float) -> str:
    """What is left after `count` items in so many seconds, as words."""
    if total is None or total < count:
        return ""
    return f" of {total}, {tqdm.format_interval(seconds / count * (total - count))} left"
