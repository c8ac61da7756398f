"""Folders of published models: written complete or not at all, read without running anything in them."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from safetensors.torch import save
from torch import Tensor

from mtaclip.files import PARTIAL, not_written
from mtaclip.publishing.files import ALL, CLASSES, CONFIG, NEEDED, WEIGHTS, read_text
from mtaclip.publishing.portable import read_config
from mtaclip.visualization.palette import Palette


def find_published(file: str | Path) -> Path | None:
    """The published folder that a file lies in, or that a path is; None if there is none, or it lacks files."""
    path = Path(file)
    folder = path if path.is_dir() else path.parent
    return folder if all((folder / name).is_file() for name in NEEDED) else None


def is_published_config(file: str | Path) -> bool:
    """Whether a file is the config of a published folder, whose files it names."""
    return Path(file).name == CONFIG and find_published(file) is not None


def read_folder(folder: Path) -> CfgNode:
    """The config of a published model, with its files.

    Args:
        folder: of `write_folder`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the config is damaged, or names files outside of the folder.
    """
    for name in NEEDED:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no complete published model: it holds no {name}; copy or download the whole folder."
            )
    cfg = read_config(folder)
    cfg.MODEL.WEIGHTS = str(folder / WEIGHTS)
    return cfg


def published_palette(cfg: CfgNode) -> Palette | None:
    """Names and colours that the weights of a config were published with, or those of TEST.VOCABULARY.

    Returns:
        None if they were not published.

    Raises:
        ValueError: see `read_classes` and `Palette.tested`.
    """
    folder = find_published(cfg.MODEL.WEIGHTS)
    return None if folder is None else read_classes(folder, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES).tested(cfg)


def find_palette(cfg: CfgNode) -> Palette:
    """Names and colours of a model's classes: those it was published with, or those of the first test dataset.

    Raises:
        ValueError: see `published_palette` and `Palette.from_config`.
    """
    return published_palette(cfg) or Palette.from_config(cfg)


def read_classes(folder: Path, num_classes: int) -> Palette:
    """Names and colours of the classes of a published model.

    Args:
        folder: of `write_folder`.
        num_classes: number C of classes of the model.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is damaged, or has another number of classes.
    """
    file = folder / CLASSES
    text = read_text(file)
    try:
        classes = json.loads(text)["classes"]
        names = tuple(entry["name"] for entry in classes)
        colours = np.array([entry["colour"] for entry in classes])
        if not all(isinstance(name, str) and name.strip() for name in names) or colours.dtype.kind != "i":
            raise ValueError("names must be texts, colours numbers")
        "".join(names).encode()  # JSON can hold characters that no text can
        if colours.min() < 0 or colours.max() > 255:
            raise ValueError("colours lie in 0 .. 255")
        palette = Palette(names, colours.astype(np.uint8))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f'{file}: damaged, for "classes" must list a "name" and a "colour" [red, green, blue] each.'
        ) from error
    _check_number(palette, num_classes, str(file))
    return palette


def classes_file(palette: Palette, num_classes: int) -> bytes:
    """What `read_classes` reads.

    Args:
        palette: names and colours.
        num_classes: number C of classes of the model.

    Raises:
        ValueError: the palette has another number of classes.
    """
    _check_number(palette, num_classes, "palette")
    pairs = zip(palette.names, palette.colours.tolist(), strict=True)
    lines = [json.dumps({"name": name, "colour": colour}, ensure_ascii=False) for name, colour in pairs]
    return ('{"classes": [\n' + ",\n".join(lines) + "\n]}\n").encode()


def _check_number(palette: Palette, num_classes: int, source: str) -> None:
    if len(palette.names) != num_classes:
        raise ValueError(f"{source}: {len(palette.names)} classes are named, but the model has {num_classes}.")


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Raise if a folder must not be replaced by a published model.

    Args:
        folder: that is to be written.
        overwrite: it may be a published model.

    Raises:
        ValueError: it is a file, holds other files, or is a published model and may not be.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for the published model.")
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    foreign = there if find_published(folder) is None else [name for name in there if name not in ALL]
    if foreign:
        raise ValueError(f"{folder} holds {foreign[0]!r}, which is not of a published model: name a new folder.")
    if there and not overwrite:
        raise ValueError(f"{folder} holds a published model: name a new folder, or replace it (--overwrite).")


def write_folder(
    folder: Path, state: Mapping[str, Tensor], files: Mapping[str, bytes], *, overwrite: bool = False
) -> None:
    """Write a published model; the folder appears complete or not at all.

    Args:
        folder: new or empty; folders above it are created.
        state: tensors by name, on any device, in any layout, of shared memory or not.
        files: contents of the other files by name.
        overwrite: replace a published model.

    Raises:
        ValueError: see `check_target`.
        OSError: the file system refuses it.
    """
    folder = folder.resolve()
    check_target(folder, overwrite=overwrite)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    try:
        partial.mkdir(parents=True)
        for name, content in files.items():
            (partial / name).write_bytes(content)
        weights = save({name: _plain(tensor) for name, tensor in state.items()}, {"format": "pt"})
        (partial / WEIGHTS).write_bytes(weights)
        _replace(folder, partial)
    except OSError as error:
        raise OSError(f"{not_written(folder, error)}; remove the cause and run the same command again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _plain(tensor: Tensor) -> Tensor:
    """A copy in the CPU's memory that is contiguous and its own, as the format wants it."""
    return tensor.detach().cpu().contiguous().clone()


def _replace(folder: Path, new: Path) -> None:
    """Give `new` the name of `folder`, and remove what had it."""
    old = new.with_suffix(".old")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
