"""What is wrong with files and options, in sentences."""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.utils.logger import setup_logger

from mtaclip.problems import advice

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """What is wrong with an input; unlike the error, it keeps nothing else in memory."""

    sentence: str


def attempt(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Make a function return a Problem instead of raising what a user can mend, and hand on one that it is given."""

    def attempted(item: Any) -> Any:
        if isinstance(item, Problem):
            return item
        try:
            return function(item)
        except Exception as error:
            if (sentence := advice(error)) is None:
                raise
            return Problem(sentence)

    return attempted


def report_problem(file: Path, result: object) -> bool:
    """Log a problem, in one line with the name of the file; returns whether there is one.

    Args:
        file: the input.
        result: of an attempted function.
    """
    if not isinstance(result, Problem):
        return False
    sentence = result.sentence
    logger.error("%s", sentence if str(file) in sentence else f"{file}: {sentence}")
    return True


def run_program(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None,
    *,
    logs: bool = True,
) -> int:
    """Do what a command line says.

    Args:
        parser: of the options.
        run: does it; returns an exit status, or None for 0.
        argv: arguments without the program's name; None takes the process's own.
        logs: show the package's log, on standard output.

    Returns:
        the exit status of `run`, if it does not end with 2 and a sentence on what is wrong, or with 130 after Ctrl-C.
    """
    args = parser.parse_args(argv)
    if logs:
        setup_logger(name="mtaclip")
    try:
        return run(args) or 0
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; the files that were written are complete.\n")
    except Exception as error:
        if (sentence := advice(error)) is None:
            raise
        parser.exit(2, f"{parser.prog}: error: {sentence}\n")
