"""Refusing pickles of which few bytes would take any amount of time or memory; nothing is built to know that."""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

from mtaclip.problems import first_line

_ZIP = b"PK\x03\x04"
_MARK = 0
_GET = {"GET", "BINGET", "LONG_BINGET"}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
_MOST_PARTS = 1_000_000


class _OutOfProportion(Exception):
    """What a pickle asks for."""


def check_pickles(path: str | Path) -> None:
    """Refuse a weight file whose pickles ask much more of a reader than what they hold.

    Args:
        path: a zip file with members `.pkl`, or a file of pickles one after the other.

    Raises:
        ValueError: they do, or the file is damaged.
    """
    try:
        for file in _pickles(path):
            while _has_end(file):
                pass
    except _OutOfProportion as error:
        raise ValueError(f"{path}: no checkpoint that a program has saved, {error}.") from None
    except (BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError, ZlibError) as error:
        raise ValueError(f"{path}: not a checkpoint that can be read, it is damaged ({first_line(error)}).") from error


def _pickles(path: str | Path) -> Iterator[BinaryIO]:
    with open(path, "rb") as file:
        is_zip = file.read(len(_ZIP)) == _ZIP
        file.seek(0)
        if not is_zip:
            yield file
            return
        with ZipFile(file) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".pkl"):
                    with archive.open(info) as member:
                        yield member


def _has_end(file: BinaryIO) -> bool:
    """Follow the stack of a pickle to its end; returns whether there is one.

    The memory that `pickle` takes grows with the numbers of values; the time for the hash of a tuple grows with its
    parts, of which a pickle needs only one, if all others are the same.

    Raises:
        _OutOfProportion: a number or a tuple is out of proportion.
    """
    stack: list[int] = []  # for each tuple its parts, those of parts included; 1 for other values
    memo: dict[int, int] = {}
    try:
        for opcode, argument, place in pickletools.genops(file):
            name = opcode.name
            if name in _PUT and argument > place:
                raise _OutOfProportion(f"for it gives one of its {len(memo) + 1} values the number {argument}")
            if name in _PUT or name == "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
                continue
            taken = _take(stack, opcode)
            made = 1 + sum(taken) if name in _TUPLES else memo[argument] if name in _GET else 1
            if made > _MOST_PARTS:
                raise _OutOfProportion("for tuples of it hold the same ones again and again")
            if name == "DUP":
                made = taken[0]
            stack += [_MARK if name == "MARK" else made] * len(opcode.stack_after)
    except (IndexError, KeyError, ValueError):  # whoever reads the file says what is wrong with it
        return False
    return True


def _take(stack: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """What an operation takes from the stack: a fixed number of values, or all down to a mark, and those before it."""
    before = opcode.stack_before
    taken = []
    fixed = len(before)
    if pickletools.markobject in before:
        while (parts := stack.pop()) != _MARK:
            taken.append(parts)
        fixed = before.index(pickletools.markobject)
    return taken + [stack.pop() for _ in range(fixed)]
