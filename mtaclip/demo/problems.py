"""What is wrong with files and options, in sentences."""

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from detectron2.utils.logger import setup_logger

_OUT_OF_MEMORY = (
    "the memory does not suffice; let the model see less at once: a smaller INPUT.MIN_SIZE_TEST, or "
    "TEST.SLIDING_WINDOW.ENABLED True; on a GPU also TEST.SCORES_DEVICE cpu."
)
# Of PyTorch on a CPU, of CUDA, and of OpenCV.
_OUT_OF_MEMORY_PHRASES = ("can't allocate memory", "bad_alloc", "out of memory", "Insufficient memory")

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


def advice(error: Exception) -> str | None:
    """What to tell a user: an OSError's or ValueError's own sentence, and what to do where memory runs out.

    Args:
        error: of any kind.

    Returns:
        a sentence; None if the user can do nothing about it.
    """
    foreign = isinstance(error, RuntimeError | cv2.error)
    if foreign and any(phrase in str(error) for phrase in _OUT_OF_MEMORY_PHRASES):
        return _OUT_OF_MEMORY
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return _OUT_OF_MEMORY
    return str(error) if isinstance(error, OSError | ValueError) else None


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
