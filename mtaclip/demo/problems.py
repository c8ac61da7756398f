"""Files that cannot be used: named in the log, while the others go on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def attempt(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a function return an OSError or ValueError instead of raising it, and hand on one that it is given."""

    def attempted(item: Any) -> Any:
        if isinstance(item, Exception):
            return item
        try:
            return function(item)
        except (OSError, ValueError) as error:
            return error

    return attempted


def report_problem(file: Path, result: object) -> bool:
    """Log a problem, in one line with the name of the file; returns whether there is one.

    Args:
        file: the input.
        result: of an attempted function.
    """
    if not isinstance(result, Exception):
        return False
    sentence = str(result)
    logger.error("%s", sentence if str(file) in sentence else f"{file}: {sentence}")
    return True
