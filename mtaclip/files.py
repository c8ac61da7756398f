"""Names and contents of files."""

import contextlib
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
PARTIAL = ".partial"  # ending of hidden files that a write leaves behind if it is killed
_LONGEST_NAME = 255  # bytes
_logger = logging.getLogger(__name__)


def replace_file(file: Path, content: bytes | Callable[[BinaryIO], object], *, durable: bool = False) -> None:
    """Give a file its content, complete, or leave it as it is.

    Args:
        file: to write; its folder is there.
        content: what it holds afterwards, or what writes that to an open file.
        durable: return when the disk has it.

    Raises:
        OSError: the file system refuses it.
    """
    partial = file.with_name(_hidden_name(file.name))
    try:
        with open(partial, "wb") as opened:
            opened.write(content) if isinstance(content, bytes) else content(opened)
            if durable:
                opened.flush()
                os.fsync(opened.fileno())
        os.replace(partial, file)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error  # which may have no name, or the hidden one
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    if durable:
        with contextlib.suppress(OSError):  # some network file systems know no such thing as flushing a folder
            _flush_folder(file.parent)


def _hidden_name(name: str) -> str:
    """What a file of this name is called while it is written; cut where that is longer than file systems allow."""
    ending = f".{os.getpid()}{PARTIAL}"
    return "." + os.fsencode(name)[: _LONGEST_NAME - len(ending) - 1].decode(errors="ignore") + ending


def remove_partial_files(folder: Path) -> None:
    """Remove what writes into a folder that were killed have left in it, but nothing that another process writes."""
    for path in folder.glob(f".*{PARTIAL}"):
        if path.is_file() and not _is_written(path):
            path.unlink(missing_ok=True)
            _logger.info("%s: removed what an interrupted write left", path)


def _is_written(partial: Path) -> bool:
    """Whether the process that a hidden name holds lives, on this host, and is another one."""
    number = partial.name.removesuffix(PARTIAL).rpartition(".")[2]
    try:
        process = int(number)
        if process <= 0 or process == os.getpid():
            return False
        os.kill(process, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError, ValueError):
        return False
    return True


def not_written(path: Path, error: OSError) -> str:
    """Which file cannot be written, why, and, if that can be known, how much room there is: begins a sentence.

    Args:
        path: the file, or a folder.
        error: what keeps it from being written.
    """
    said = f"{path}: not written: {error.strerror or error}"
    try:
        existing = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(existing).free / 2**20
    except (OSError, StopIteration):
        return said
    return f"{said} ({free:.1f} MiB free in its file system)"


def _flush_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def visible_files(folder: Path) -> list[Path]:
    """Files in a folder and below it, sorted; hidden files and folders, such as those that macOS adds, are left out.

    Links to folders are followed, but no folder is entered twice.
    """
    files: list[Path] = []
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, followlinks=True):
        paths = [os.path.join(place, name) for name in folders if not name.startswith(".")]
        paths.sort(key=os.path.islink, reverse=True)  # a folder itself takes the place of a link to it
        entered = {os.path.realpath(path): os.path.basename(path) for path in paths}
        folders[:] = [name for real, name in entered.items() if real not in seen]
        seen.update(entered)
        files += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(file for file in files if file.is_file())


def output_stems(files: Sequence[Path]) -> list[str]:
    """Beginnings of the output names, all different even where upper and lower case are the same.

    A file's stem, if no other file has it; else with its folder's name; else with its suffix, too; else numbered.
    """
    stems = [file.stem for file in files]
    parents = [file.resolve().parent.name for file in files]
    for candidates in (
        [f"{parent}_{file.stem}" for parent, file in zip(parents, files, strict=True)],
        [f"{parent}_{file.stem}_{file.suffix[1:]}" for parent, file in zip(parents, files, strict=True)],
    ):
        uses = Counter(stem.lower() for stem in stems)
        stems = [longer if uses[stem.lower()] > 1 else stem for stem, longer in zip(stems, candidates, strict=True)]
    taken: set[str] = set()
    for index, stem in enumerate(stems):
        number = 1
        while stems[index].lower() in taken:
            number += 1
            stems[index] = f"{stem}-{number}"
        taken.add(stems[index].lower())
    return stems
