"""Files that cannot be used: named in the log, while the others go on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def attempt(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns what goes wrong with its file, and hands on what has gone wrong before."""

    def attempted(*arguments: Any) -> Any:
        if arguments and isinstance(arguments[0], Exception):
            return arguments[0]
        try:
            return function(*arguments)
        except (OSError, ValueError) as error:
            return error

    return attempted


def report_problem(file: Path, result: object) -> bool:
    """Log a problem with the name of its file; returns whether there is one."""
    if not isinstance(result, Exception):
        return False
    sentence = str(result)
    logger.error("%s", sentence if str(file) in sentence else f"{file}: {sentence}")
    return True
