"""What goes wrong, in one sentence for whoever can mend it."""

import errno
from pathlib import Path
from typing import TypeGuard

import cv2

from mtaclip.files import not_written

_OUT_OF_MEMORY = (
    "the memory does not suffice; let the model see less at once: a smaller INPUT.MIN_SIZE_TEST, or "
    "TEST.SLIDING_WINDOW.ENABLED True; on a GPU also TEST.SCORES_DEVICE cpu."
)
# Of PyTorch on a CPU, of CUDA, and of OpenCV.
_OUT_OF_MEMORY_PHRASES = ("can't allocate memory", "bad_alloc", "out of memory", "Insufficient memory")


def first_line(error: Exception) -> str:
    """What an error says first, without a full stop, and with signs that a terminal would obey escaped."""
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    line = (str(said).strip().splitlines() or [type(error).__name__])[0].rstrip(".: ")
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


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
