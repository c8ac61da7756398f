"""Reading the checkpoints of other projects, each by its own rules."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtaclip.checkpoint.files import read_settings, state_of
from mtaclip.checkpoint.inert import read_inert
from mtaclip.checkpoint.renaming import Conversion
from mtaclip.conversion.hugging_face import convert_hugging_face
from mtaclip.conversion.mask2former import convert_mask2former
from mtaclip.conversion.mmseg import convert_mmseg
from mtaclip.problems import first_line, printable


def read_foreign(path: str | Path, kind: str) -> Conversion:
    """Read a checkpoint of another project and rename its tensors.

    Args:
        path: a file, or a folder of Hugging Face.
        kind: one of `KINDS`.

    Raises:
        FileNotFoundError: the file, or one of the folder, is not there.
        ValueError: it is damaged, or holds a tensor that no rule explains.
    """
    read, convert = KINDS[kind]
    content = read(Path(path))
    try:
        return convert(*content)
    except ValueError as error:
        raise ValueError(f"{path}: {printable(str(error)).rstrip('.')}.") from error
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path}: not as {kind} writes it ({type(error).__name__}: {first_line(error)}).") from error


def _read_file(path: Path) -> tuple[Any, ...]:
    return (state_of(read_inert(path), path),)


def _read_folder(path: Path) -> tuple[Any, ...]:
    """Tensors, config and image processor of a folder of Hugging Face."""
    if path.is_file():
        raise ValueError(f"{path} is a file: name the folder that config.json and the weights are in.")
    config = read_settings(path / "config.json")
    processor = path / "preprocessor_config.json"
    return (*_read_file(path), config, read_settings(processor) if processor.is_file() else None)


KINDS: dict[str, tuple[Callable[[Path], tuple[Any, ...]], Callable[..., Conversion]]] = {
    "mtaclip-mmseg": (_read_file, convert_mmseg),
    "mask2former": (_read_file, convert_mask2former),
    "maskformer-hf": (_read_folder, convert_hugging_face),
}
"""For each kind of checkpoint, what reads it and what renames the tensors of what was read."""
