"""Reading tensors from the files that people have, without running what a file may hold besides them.

A file is known by its content, not by its name:

- PyTorch's zip and older pickle files, by `torch.load(weights_only=True)`;
- safetensors, by the library of that name;
- TorchScript archives (OpenAI's CLIP files), by Python's unpickler, which gets nothing but tensors and empty modules to
  build. `torch.jit.load` is not used: it runs the archive's own code, which may read and write files;
- folders of Hugging Face, in one file or several named by an index, and of open_clip.

Other pickled objects are read on demand only, for that runs any code that the file holds.
"""

import json
import logging
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mtaclip.checkpoint.pickles import check_pickles
from mtaclip.problems import first_line, printable

_logger = logging.getLogger("mtaclip.checkpoint")
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_TORCH_PICKLE = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before PyTorch 1.6
_HEAD = 64  # bytes that tell formats apart
_LFS_POINTER = b"version https://git-lfs"
# Weights in a folder, the first that is there: Hugging Face's, in one file or in several that an index names, or
# open_clip's.
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)

Format = Literal["torch", "torchscript", "pickle", "safetensors"]
"""PyTorch's, zip or older; TorchScript; other pickles; safetensors."""


def read_content(path: str | Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """Everything that a weight file holds, on the CPU.

    Args:
        path: a file of `torch.save`, `torch.jit.save` or safetensors, or a folder of Hugging Face or open_clip.
        allow_pickle: read other pickled objects too. Such a file can run any code with your rights.

    Returns:
        What was saved. Of safetensors, {"model": tensors by name, and the texts of its metadata}; of a TorchScript
        archive and of a folder, tensors by name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no weight file, is damaged, or holds pickled objects that are not allowed.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, allow_pickle)
    kind = format_of(path)
    if kind not in ("safetensors", None):
        check_pickles(path)
    if kind == "torchscript":
        content = _read_torchscript(path)
    elif kind == "safetensors":
        content = _read_safetensors(path)
    elif kind is not None:
        content = _read_torch(path, allow_pickle, plain=kind == "pickle")
    else:
        raise ValueError(f"{path}: not a checkpoint, {_what_else(path)}.")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state dict.")
    return content


def read_state(path: str | Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The tensors of a weight file by name.

    Args:
        path: see `read_content`; the tensors may lie under "model" or "state_dict".
        allow_pickle: see `read_content`.

    Raises:
        FileNotFoundError, ValueError: see `read_content`; also, the file holds something other than tensors there.
    """
    return state_of(read_content(path, allow_pickle=allow_pickle), path)


def read_settings(file: Path) -> dict[str, Any]:
    """The settings of a model, from a JSON file beside its weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there, but belongs to the weights: download the whole folder.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: damaged, this is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: holds a {type(content).__name__}, not the settings of a model.")
    return content


def state_of(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file's content, without the "module." that wrappers for several processes put before names.

    Args:
        content: of `read_content`.
        path: for the message.

    Raises:
        ValueError: it holds no tensors, or something else among them.
    """
    nested = (content[key] for key in ("model", "state_dict") if isinstance(content.get(key), Mapping))
    state = {key: _as_tensor(value) for key, value in next(nested, content).items()}
    other = [key for key, value in state.items() if not isinstance(value, Tensor)]
    if other or not state:
        what = f"{str(other[0])!r} is a {printable(type(state[other[0]]).__name__)}" if other else "it is empty"
        raise ValueError(f"{path}: holds no state dict of tensors by name: {what}.")
    prefix = "module." if all(str(key).startswith("module.") for key in state) else ""
    return {str(key).removeprefix(prefix): value for key, value in state.items()}


def format_of(path: str | Path) -> Format | None:
    """The format of a weight file, by its content; None if it has none of them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a zip file that is damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no weight file {str(path)!r}.")
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_ZIP):
        return "torchscript" if _holds_constants(path) else "torch"
    # Before pickles: the length of the header that safetensors begin with may begin with the same byte.
    if head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= Path(path).stat().st_size:
        return "safetensors"
    if head.startswith(_TORCH_PICKLE):
        return "torch"
    if head.startswith(_PICKLE):
        return "pickle"
    return None


def _holds_constants(path: str | Path) -> bool:
    """Whether a zip file is an archive of `torch.jit.save`; both kinds compress nothing but the code of models."""
    try:
        with ZipFile(path) as archive:
            stored = sum(info.file_size for info in archive.infolist() if "/code/" not in info.filename)
            if stored > Path(path).stat().st_size:
                raise ValueError("its tensors would be larger than the file")
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise _damaged(path, error) from error


def _as_tensor(value: Any) -> Any:
    is_array = isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biuf"
    return torch.from_numpy(np.array(value)) if is_array else value


def _what_else(path: Path) -> str:
    """What a file of no known format is, to a person."""
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not head:
        return "for it is empty"
    if head.startswith(_LFS_POINTER):
        return "but the pointer that Git LFS leaves in its place: fetch the file itself with `git lfs pull`"
    if head.lstrip()[:1] == b"<":
        return "but a web page: download the file itself"
    if head[8:9] == b"{":
        return "for it is damaged or incomplete: its header would be longer than the file"
    return "for neither PyTorch nor safetensors writes such files"


def _damaged(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: not a checkpoint that can be read, it is damaged or incomplete ({first_line(error)}).")


def _read_torch(path: Path, allow_pickle: bool, *, plain: bool = False) -> Any:
    """What `torch.save` wrote, or, if `plain`, `pickle.dump`."""
    try:
        with open(path, "rb") as file:  # by its path, a file of another format would be known by its name
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not allow_pickle:
            raise ValueError(
                f"{path}: not a checkpoint that can be read safely, for it is damaged or holds pickled objects other "
                "than tensors and plain values; reading them can run any code with your rights: only if you trust "
                "whoever made the file, set MODEL.WEIGHTS_ALLOW_PICKLE True."
            ) from error
    except Exception as error:  # a damaged pickle can raise anything
        if not (plain and allow_pickle):
            raise _damaged(path, error) from error
    _logger.warning("%s: reading pickled objects, as MODEL.WEIGHTS_ALLOW_PICKLE allows.", path)
    try:
        with open(path, "rb") as file:
            if plain:
                return pickle.load(file, encoding="latin1")
            return torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}) | {"model": {name: file.get_tensor(name) for name in file.keys()}}  # noqa: SIM118
    except SafetensorError as error:
        raise _damaged(path, error) from error


def _read_folder(folder: Path, allow_pickle: bool) -> dict[str, Tensor]:
    """The tensors of a folder."""
    file = next((folder / name for name in _FOLDER_FILES if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"{folder}: holds no weights; one of {', '.join(_FOLDER_FILES)} is needed.")
    if file.suffix != ".json":
        return read_state(file, allow_pickle=allow_pickle)
    state: dict[str, Tensor] = {}
    for name in _shards(file):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{file}: names {name!r}, which is not there; download the whole folder.")
        state |= read_state(folder / name, allow_pickle=allow_pickle)
    return state


def _shards(index: Path) -> list[str]:
    """Names of the files that an index of Hugging Face lists."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        outside = sorted(name for name in names if Path(name).name != name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: not an index of weight files, which has a weight_map.") from error
    if outside:
        raise ValueError(f"{index}: names a file outside of its folder, {outside[0]!r}.")
    return sorted(names)


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of a TorchScript archive by name; its code is neither compiled nor run."""
    try:
        with ZipFile(path) as archive:
            (root,) = (name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(f"{root}/data.pkl") as file:
                module = _TorchScriptUnpickler(file, lambda key: _stored(archive, f"{root}/data/{key}")).load()
        return dict(_tensors(module, "", set()))
    except Exception as error:  # a damaged pickle can raise anything
        raise _damaged(path, error) from error


def _stored(archive: ZipFile, name: str) -> bytearray:
    """The bytes of a storage; PyTorch compresses none, so that the file is as long as what it holds."""
    info = archive.getinfo(name)
    if info.file_size != info.compress_size:
        raise ValueError(f"{name} is compressed")
    return bytearray(archive.read(info))


class _Module:
    """What a module of an archive becomes: something with attributes."""


class _TorchScriptUnpickler(pickle.Unpickler):
    """Knows tensors, containers and modules, and refuses every other name.

    Args:
        file: the archive's data.pkl.
        read: the bytes of a storage by its key.
    """

    def __init__(self, file: Any, read: Callable[[str], bytearray]) -> None:
        super().__init__(file)
        self._read = read
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return type(name, (_Module,), {})  # of its own, so that nothing can be changed for the next file
        if module == "torch" and name.endswith("Storage"):
            return _DTYPES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if module == "torch.jit._pickle":
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"it refers to {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, size = pid
        if size == 0:
            return torch.empty(0, dtype=dtype)
        if key not in self._storages:
            self._storages[key] = torch.frombuffer(self._read(key), dtype=dtype, count=size)
        return self._storages[key]


_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


def _tensors(module: Any, prefix: str, met: set[int]) -> list[tuple[str, Tensor]]:
    """The tensors of a module and of those in it, by their names in its state dict.

    Args:
        module: of an archive.
        prefix: of the names.
        met: ids of the modules that were met before; grows.

    Raises:
        ValueError: a module has two names, with which few bytes could ask for any number of tensors.
    """
    if id(module) in met:
        raise ValueError(f"the module {prefix.removesuffix('.')!r} has another name, too")
    met.add(id(module))
    found = []
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Module):
            found += _tensors(value, f"{prefix}{name}.", met)
    return found
