"""What is wrong with files and options, in sentences."""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils.logger import setup_logger

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


def run_program(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], object], argv: Sequence[str] | None
) -> int:
    """Do what a command line says; returns 0, or ends with exit status 2 and a sentence on what is wrong.

    Args:
        parser: of the options.
        run: does it.
        argv: arguments without the program's name; None takes the process's own.
    """
    args = parser.parse_args(argv)
    setup_logger(name="mtaclip")
    try:
        run(args)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    return 0
