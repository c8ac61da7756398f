"""The folder that a run writes into: held for this run alone, with its log and its configuration."""

import errno
import fcntl
import logging
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from mtaclip.files import remove_partial_files, replace_file

_LOCK = ".lock"
_LOGGERS = ("fvcore", "detectron2", "mtaclip")
_ADVICE = "make room or change its permissions, or name another folder"
_HELD = (errno.EACCES, errno.EAGAIN)
_logger = logging.getLogger(__name__)


@contextmanager
def output_folder(folder: str) -> Iterator[None]:
    """Make a folder and hold it for this run; called by all processes.

    Two runs in one folder would replace each other's files. The main process holds a lock on a file in it, which the
    system takes back however the process ends, so that a killed run locks nobody out. Over NFS it holds for all
    machines, if the server knows locks; where a file system does not, a warning says so.

    Args:
        folder: OUTPUT_DIR; folders above it are created.

    Raises:
        OSError: it is no folder, cannot be written into, or another run holds it.
    """
    lock = problem = None
    if comm.is_main_process():
        try:
            lock = _hold(folder)
        except OSError as error:
            problem = str(error)
    problem = comm.all_gather(problem)[0]
    if problem is not None:
        raise OSError(problem)
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def _hold(folder: str) -> BinaryIO:
    if not folder:
        raise OSError("OUTPUT_DIR is empty: name the folder that the run writes into.")
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / _LOCK, "ab")  # noqa: SIM115  (for as long as the run lasts)
    except FileExistsError as error:
        raise OSError(f"OUTPUT_DIR {folder} is a file, or a link to nothing: name a folder.") from error
    except OSError as error:
        raise OSError(f"OUTPUT_DIR {folder} cannot be written into: {error.strerror}; {_ADVICE}.") from error
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            lock.close()
            raise OSError(
                f"OUTPUT_DIR {folder} is in use by another run: wait until it ends, or name another folder."
            ) from error
        _logger.warning("OUTPUT_DIR %s is not protected from other runs: %s.", folder, error.strerror)
    remove_partial_files(path)
    return lock


def set_up(cfg: CfgNode, args: Namespace) -> None:
    """Log to `log.txt` as well, store `config.yaml`, and seed what is random; called by all processes.

    What a full disk keeps out of `log.txt` is on the terminal only.

    Args:
        cfg: OUTPUT_DIR, SEED and CUDNN_BENCHMARK are read.
        args: of the command line, for the log; `eval_only` is read.

    Raises:
        OSError: the files cannot be written.
    """
    rank, folder = comm.get_rank(), Path(cfg.OUTPUT_DIR)
    try:
        _start_log(folder / ("log.txt" if rank == 0 else f"log.txt.rank{rank}"), rank)
        if comm.is_main_process():
            replace_file(folder / "config.yaml", cfg.dump().encode())
    except OSError as error:
        raise OSError(f"OUTPUT_DIR {folder} cannot be written into: {error.strerror}; {_ADVICE}.") from error
    _logger.info("Environment:\n%s", collect_env_info())
    _logger.info("Command line: %s", args)
    _logger.info("Configuration:\n%s", cfg.dump())
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK


def _start_log(file: Path, rank: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)  # on another machine it may not be the same one
    handler = _LogFile(file)
    handler.setFormatter(logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%m/%d %H:%M:%S"))
    for name in _LOGGERS:
        setup_logger(distributed_rank=rank, name=name).addHandler(handler)


class _LogFile(logging.FileHandler):
    """Writes what it can."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave out a message that the file system refuses."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()

    def close(self) -> None:
        with suppress(OSError):
            super().close()
