"""Whole files of every kind that the project reads, small ones: the beginning of damaged ones."""

import io
import json
import pickle
import re
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Pillow knows a file by its content: what is called .png may be any of these.
IMAGE_FORMATS = (
    "PNG",
    "JPEG",
    "BMP",
    "TIFF",
    "WEBP",
    "GIF",
    "PPM",
    "AVIF",
    "DDS",
    "ICO",
    "JPEG2000",
    "PCX",
    "QOI",
    "SGI",
    "TGA",
)
IMAGE_MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I", "I;16", "F")
SCORES = {
    "dataset": "ade20k",
    "num_images": 2,
    "weights": "model.pth",
    "class_names": ["wall", "sky"],
    "scores_percent": {"mIoU": 50.0, "IoU-wall": 25.0, "IoU-sky": None},
}
CLASSES = {"classes": [{"name": "wall", "colour": [1, 2, 3]}, {"name": "sky", "colour": [4, 5, 6]}]}
PUBLISHED = {"SEED": 3, "MODEL": {"CLIP": {"ARCH": "RN50"}}, "DATASETS": {"TRAIN": ["ade20k_sem_seg_train"]}}
CLIP_MODEL = {
    "embed_dim": 4,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 2, "layers": 1},
}


class Setting:
    """An object that is neither a tensor nor a plain value."""


@cache
def checkpoints() -> dict[str, bytes]:
    """One small weight file of every format."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).eval()
    state = dict(model.state_dict())

    def written(content: object, **how: bool) -> bytes:
        file = io.BytesIO()
        torch.save(content, file, **how)
        return file.getvalue()

    script = io.BytesIO()
    torch.jit.save(torch.jit.script(model), script)
    arrays = {"model": {name: tensor.numpy() for name, tensor in state.items()}, "__author__": "x"}
    return {
        "torch": written({"model": state, "iteration": 3}),
        "torch before 1.6": written({"state_dict": state}, _use_new_zipfile_serialization=False),
        "objects": written({"model": OrderedDict(state), "meta": np.float64(3), "names": Setting}),
        "torchscript": script.getvalue(),
        "safetensors": save(state, {"format": "pt"}),
        "pickle 2": pickle.dumps(arrays, protocol=2),
        "pickle 4": pickle.dumps(arrays, protocol=4),
        "no dict": written([1, 2]),
        "other keys": written({"model": {3: torch.zeros(1), ("a",): torch.zeros(2)}}),
        "json": json.dumps({"weight_map": {"a": "b"}}).encode(),
    }


@cache
def image(kind: str, mode: str, size: tuple[int, int] = (7, 5), orientation: int = 1, frames: int = 1) -> bytes | None:
    """An image as a file; None where a format has no such images.

    Args:
        kind: one of `IMAGE_FORMATS`.
        mode: one of `IMAGE_MODES`.
        size: width and height.
        orientation: what the camera says of it.
        frames: number of images in the file.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    first = Image.fromarray(pixels)
    image = first.convert("L").convert("I").convert("I;16") if mode == "I;16" else first.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    more = {"save_all": True, "append_images": [image.copy()] * (frames - 1)} if frames > 1 else {}
    try:
        image.save(file, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}), **more)
    except (OSError, ValueError, KeyError):
        return None
    return file.getvalue()


@cache
def configs() -> list[bytes]:
    """The configs of this project, which find their bases from any folder."""
    files = sorted(CONFIGS.rglob("*.yaml"))
    return [
        re.sub(
            '(?m)^_BASE_: "(.+)"', lambda base, file=file: f"_BASE_: {file.parent / base[1]}", file.read_text()
        ).encode()
        for file in files
    ]
