"""Tensors from pickled files that hold more than tensors, without running anything that such a file asks for.

Programs that train models like to store what they are made of: logs, arrays, settings. `torch.load(weights_only=True)`
refuses the whole file then. Here, whatever is not a tensor, an array or a plain value is read as an object that does
nothing and knows nothing, so that neither the program nor trust in its author is needed.
"""

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtaclip.checkpoint.files import format_of, read_content
from mtaclip.checkpoint.pickles import check_pickles


class _Inert:
    """Stands where an object of an unknown class was."""

    def __new__(cls, *args: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_inert(path: str | Path) -> dict[str, Any]:
    """Everything that a weight file holds, unknown objects replaced by inert ones.

    Args:
        path: whatever `mtaclip.checkpoint.files.read_content` takes; a file of `torch.save` may hold objects of any
            class besides its tensors, and one of `pickle.dump` (Detectron2's `.pkl`) arrays of NumPy.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no weight file, or damaged, or holds pickled objects in other ways.
    """
    if Path(path).is_file() and format_of(path) in ("pickle", None):  # the oldest pickles begin with anything
        content = _read_arrays(path)
        if isinstance(content, dict):
            return content
    try:
        return read_content(path)
    except ValueError as error:
        if not isinstance(error.__cause__, pickle.UnpicklingError):
            raise
        content = _read_torch(path)
        if isinstance(content, dict):
            return content
        raise ValueError(
            f"{path}: damaged, or it holds pickled objects that cannot even be read without running code."
        ) from error


def _read_torch(path: str | Path) -> Any:
    """What `torch.save` wrote, with inert objects; None if that cannot be done."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        parts = (name.rpartition(".") for name in unknown)
        inert = [type(name, (_Inert,), {"__module__": module}) for module, _, name in parts]
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle can raise anything
        return None


def _read_arrays(path: str | Path) -> Any:
    """What `pickle.dump` wrote, if that is made of arrays and plain values; None if not."""
    try:
        check_pickles(path)
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()  # as Python 2 wrote them
        return {key: _opened(value) for key, value in content.items()}
    except Exception:  # a damaged pickle can raise anything
        return None


def _opened(value: Any) -> Any:
    """An array, or those of a dict, for what stands for them."""
    if isinstance(value, dict):
        return {key: item.values if isinstance(item, _Array) else item for key, item in value.items()}
    return value.values if isinstance(value, _Array) else value


class _ArrayUnpickler(pickle.Unpickler):
    """Knows what stands for NumPy's arrays and numbers, and refuses every other name.

    NumPy's own types are not built from what a file says: they trust it, and can be made to read any memory.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("numpy", "ndarray"): _Array,
            ("numpy", "dtype"): _NumberFormat,
            ("numpy.core.multiarray", "_reconstruct"): lambda kind, shape, code: _Array(),
            ("numpy.core.multiarray", "scalar"): lambda numbers, data: _Array(_numbers(data, numbers)[0]),
            ("numpy.core.numeric", "_frombuffer"): lambda data, numbers, shape, order: _Array(
                _numbers(data, numbers).reshape(shape, order=order)
            ),
            ("collections", "OrderedDict"): OrderedDict,
            ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),  # bytes, as protocol 2 writes them
            ("__builtin__", "bytes"): lambda: b"",  # and none
        }.get((module.replace("numpy._core", "numpy.core"), name))
        if known is None:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return known


class _NumberFormat:
    """Stands for NumPy's dtype: booleans, integers and floating-point numbers of at most 8 bytes."""

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch("b1|[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"{code!r} is no type of numbers")
        self.code = code
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"{state[1]!r} is no order of bytes")
        self.order = state[1]


class _Array:
    """Stands for NumPy's array or number.

    Args:
        values: it.
    """

    def __init__(self, values: Any = None) -> None:
        self.values = values

    def __setstate__(self, state: tuple) -> None:
        _, shape, numbers, is_fortran, data = state
        self.values = _numbers(data, numbers).reshape(shape, order="F" if is_fortran else "C")


def _numbers(data: bytes | str, numbers: _NumberFormat) -> NDArray:
    """The numbers that lie in bytes, of Python 2 in a text, as a flat array."""
    content = data.encode("latin1") if isinstance(data, str) else data
    kept = np.frombuffer(content, numbers.order + numbers.code) if len(content) else np.zeros(0, numbers.code)
    return kept.astype(numbers.code)
