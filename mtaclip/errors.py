"""Which errors are for the user, and what they say."""

import re
import traceback
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


class RunError(RuntimeError):
    """A run has failed; the message is for the user, and complete."""


def sentence(error: BaseException) -> str | None:
    """What to tell the user instead of a traceback; None where only that would help.

    Args:
        error: raised, and caught.

    Returns:
        the message of an error that this package raises on purpose; for a data worker that was killed, what to do.
    """
    text = str(error)
    if isinstance(error, RunError):
        return text
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker") or _lost_worker(error):
        return _killed_worker(text)
    if isinstance(error, (ValueError, OSError, FloatingPointError)) and is_ours(error):
        return text
    return None


def failed_exchange(error: BaseException) -> str | None:
    """What Gloo or NCCL say of a failed exchange between processes, in short; None if the error is another one."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not re.search("gloo|nccl", text, re.IGNORECASE):
        return None
    return re.sub(r"^\[\S*\] ", "", text.splitlines()[0]).split(". ")[0]


def is_ours(error: BaseException) -> bool:
    """Whether a line of this package raised an error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and _PACKAGE in Path(frames[-1][0].f_code.co_filename).resolve().parents


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
        "--shm-size): set a smaller DATALOADER.NUM_WORKERS, 0 for none, and go on with --resume. "
        f"({' '.join(text.split())})"
    )
