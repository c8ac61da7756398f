"""What goes wrong, in one sentence for whoever can mend it."""

import dis
import errno
import re
import traceback
from pathlib import Path
from typing import TypeGuard

import cv2
import torch.distributed as dist

from mtaclip.files import not_written

_PACKAGE = Path(__file__).resolve().parent
_RAISE = dis.opmap["RAISE_VARARGS"]
_OUT_OF_MEMORY = (
    "the memory does not suffice; let the model see less at once: a smaller INPUT.MIN_SIZE_TEST, or "
    "TEST.SLIDING_WINDOW.ENABLED True; on a GPU also TEST.SCORES_DEVICE cpu."
)
_OUT_OF_MEMORY_IN_A_RUN = (
    "the memory does not suffice ({said}). For training, SOLVER.ACCUMULATE computes a batch in parts, and "
    "SOLVER.AMP.ENABLED True, SOLVER.RECOMPUTE True or a smaller INPUT.CROP.SIZE need less; for evaluation, a smaller "
    "INPUT.MIN_SIZE_TEST, TEST.SLIDING_WINDOW.ENABLED True or, on a GPU, TEST.SCORES_DEVICE cpu do."
)
# Of PyTorch on a CPU, of CUDA, and of OpenCV.
_OUT_OF_MEMORY_PHRASES = ("can't allocate memory", "bad_alloc", "out of memory", "Insufficient memory")


class RunError(RuntimeError):
    """A run has failed; the message is for the user, and complete."""


def first_line(error: Exception) -> str:
    """What an error says first, without a full stop, and with signs that a terminal would obey escaped."""
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return printable((str(said).strip().splitlines() or [type(error).__name__])[0].rstrip(".: "))


def printable(text: str) -> str:
    """A text with signs that a terminal would obey escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def is_out_of_memory(error: Exception) -> bool:
    """Whether PyTorch, CUDA, OpenCV or Python did not get the memory that it asked for."""
    if isinstance(error, RuntimeError | cv2.error):
        return any(phrase in str(error) for phrase in _OUT_OF_MEMORY_PHRASES)
    return isinstance(error, MemoryError)


def advice(error: Exception) -> str | None:
    """What to tell a user: an OSError's or ValueError's own sentence, and what to do where memory runs out.

    Args:
        error: of any kind.

    Returns:
        a sentence; None if the user can do nothing about it.
    """
    if is_out_of_memory(error):
        return _OUT_OF_MEMORY
    if _is_full(error):
        return f"{not_written(Path(error.filename), error)}; make room and run the same command again."
    return str(error) if isinstance(error, OSError | ValueError) else None


def _is_full(error: Exception) -> TypeGuard[OSError]:
    """Whether a disk, or a user's share of it, has no room for a file that the error names."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and bool(error.filename)


def sentence(error: BaseException) -> str | None:
    """What to tell the user instead of a traceback; None where only that would help.

    Args:
        error: raised, and caught.

    Returns:
        the message of an error that this package raises on purpose; what to do, for a data worker that was killed and
        where memory runs out.
    """
    text = str(error)
    if isinstance(error, RunError):
        return text
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker") or _lost_worker(error):
        return _killed_worker(text)
    if isinstance(error, Exception) and is_out_of_memory(error):
        return _OUT_OF_MEMORY_IN_A_RUN.format(said=first_line(error))
    if isinstance(error, (ValueError, OSError, FloatingPointError)) and is_ours(error):
        return text
    return None


def failed_exchange(error: BaseException) -> str | None:
    """What Gloo, NCCL or their store say of a failed exchange, in short; None if the error is another one."""
    text = str(error)
    of_gloo = isinstance(error, RuntimeError) and "gloo/transport/" in text
    if not of_gloo and not isinstance(error, dist.DistError):
        return None
    return re.sub(r"^\[\S*\] ", "", text.splitlines()[0]).split(". ")[0]


def is_ours(error: BaseException) -> bool:
    """Whether a line of this package raised an error on purpose, or met one of the operating system."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or _PACKAGE not in Path(last.tb_frame.f_code.co_filename).resolve().parents:
        return False
    # A mistake of ours ends in a line of ours, too, where compiled code notices it.
    return isinstance(error, OSError) or last.tb_frame.f_code.co_code[last.tb_lasti] == _RAISE


def _lost_worker(error: BaseException) -> bool:
    """Whether a sample could not be fetched from a data worker that has gone in between."""
    files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)]
    return (
        isinstance(error, (OSError, EOFError))
        and any(file.endswith("torch/utils/data/dataloader.py") for file in files)
        and "multiprocessing" in Path(files[-1]).parts
    )


def _killed_worker(text: str) -> str:
    """What PyTorch says of a data worker's end, and what helps."""
    return (
        "A process that reads data has ended, most likely because memory ran out, or room in /dev/shm (docker run "
        "--shm-size): set a smaller DATALOADER.NUM_WORKERS, 0 for none; a training goes on with --resume. "
        f"({' '.join(text.split())})"
    )
