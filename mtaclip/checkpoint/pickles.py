"""Refusing pickles of which few bytes would take any amount of time or memory; nothing is built to know that."""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import BadZipFile, ZipFile
from zlib import error as ZlibError

from mtaclip.problems import first_line

_ZIP = b"PK\x03\x04"
_MARK = 0
_GET = {"GET", "BINGET", "LONG_BINGET"}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"}
_MOST_PARTS = 1_000_000  # of a tuple, beyond those that the bytes of a pickle can hold one by one
_MOST_REPEATED = 100_000_000  # parts of all the values that are used again
_OPERATIONS = {opcode.code.encode("latin1"): opcode for opcode in pickletools.opcodes}
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file of torch.save before PyTorch 1.6, which has five


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
            if _follow(file):
                for _ in range(4):
                    _follow(file)
    except _OutOfProportion as error:
        raise ValueError(f"{path}: no checkpoint that a program has saved, {error}.") from None
    except (
        BadZipFile, EOFError, IndexError, KeyError, MemoryError, NotImplementedError, OSError, OverflowError,
        RuntimeError, ValueError, ZlibError,
    ) as error:  # fmt: skip
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


def _follow(file: BinaryIO) -> bool:
    """Follow the stack of a pickle to its end; returns whether it holds PyTorch's magic number.

    The memory that `pickle` takes grows with the numbers of values; the time for the hash of a tuple grows with its
    parts, of which a pickle needs only one, if all others are the same.

    Raises:
        _OutOfProportion: a number or a tuple is out of proportion.
        IndexError, KeyError, MemoryError, OverflowError, ValueError: the pickle is damaged.
    """
    stack: list[int] = []  # for each tuple its parts, those of parts included; 1 for other values
    memo: dict[int, int] = {}
    repeated = 0
    is_torch = False
    for opcode, argument, place in _operations(file):
        name = opcode.name
        is_torch |= argument == _TORCH_MAGIC
        if name in _PUT and argument > place:
            raise _OutOfProportion(f"for it gives one of its {len(memo) + 1} values the number {argument}")
        if name in _PUT or name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
            continue
        taken = _take(stack, opcode)
        made = 1 + sum(taken) if name in _TUPLES else 1
        if name in _GET or name == "DUP":
            made = memo[argument] if name in _GET else taken[0]
            repeated += made
        if made > _MOST_PARTS + place or repeated > _MOST_REPEATED + place:
            raise _OutOfProportion("for tuples of it hold the same ones again and again")
        stack += [_MARK if name == "MARK" else made] * len(opcode.stack_after)
    return is_torch


def _operations(file: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int]]:
    """The operations of a pickle, their arguments and their places.

    `pickletools.genops` would refuse lines of text that `pickle` reads. Here they need not be understood but for the
    numbers of values.
    """
    opcode = None
    while opcode is None or opcode.name != "STOP":
        place = file.tell()
        code = file.read(1)
        if code not in _OPERATIONS:
            raise ValueError(f"its pickle has no operation at byte {place}")
        opcode = _OPERATIONS[code]
        if opcode.arg is None:
            argument = None
        elif opcode.arg.n == pickletools.UP_TO_NEWLINE:
            lines = [_line(file) for _ in range(2 if opcode.arg is pickletools.stringnl_noescape_pair else 1)]
            argument = int(lines[0]) if opcode.name in ("GET", "PUT") else None
        else:
            argument = opcode.arg.reader(file)
        yield opcode, argument, place


def _line(file: BinaryIO) -> bytes:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise ValueError("its pickle ends in a line")
    return line


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
