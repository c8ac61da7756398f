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


def progress(items: Iterable[Any], total: int | None, unit: str) -> Iterator[Any]:
    """Hand on items and say how far it is and how long it takes: a bar on a terminal, else a line every few seconds.

    Args:
        items: any.
        total: their number, if it is known.
        unit: what one of them is called.
    """
    if sys.stderr.isatty():
        with logging_redirect_tqdm(loggers=[logging.getLogger("mtaclip")]):
            yield from tqdm(items, total=total, unit=unit)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_SECONDS:
            last = now
            left = (
                ""
                if total is None
                else f" of {total}, {tqdm.format_interval((now - start) / count * max(total - count, 0))} left"
            )
            logger.info("%s %d%s", unit, count, left)
