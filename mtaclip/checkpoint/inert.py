"""Tensors from pickled files that hold more than tensors, without running anything that such a file asks for.

Programs that train models like to store what they are made of: logs, arrays, settings. `torch.load(weights_only=True)`
refuses the whole file then. Here, whatever is not a tensor, an array or a plain value is read as an object that does
nothing and knows nothing, so that neither the program nor trust in its author is needed.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mtaclip.checkpoint.files import read_content


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
            f"{path}: damaged, or it holds pickled objects that cannot even be read without running code "
            f"({str(error.__cause__).splitlines()[0]})."
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
        with open(path, "rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()  # as Python 2 wrote them
    except Exception:  # a damaged pickle can raise anything
        return None


class _ArrayUnpickler(pickle.Unpickler):
    """Knows NumPy's arrays and numbers, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        known = _ARRAYS.get((module.replace("numpy._core", "numpy.core"), name))
        if known is None:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return known


_ARRAYS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): np.zeros(0).__reduce_ex__(5)[0],
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),  # bytes, as protocol 2 writes them
}
