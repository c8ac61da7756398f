"""CLIP models of Hugging Face as files of open_clip."""

import json
from pathlib import Path
from typing import Any

import open_clip

from mtaclip.checkpoint.checkpointer import save_atomically
from mtaclip.checkpoint.deduction import count, shape
from mtaclip.checkpoint.files import state_of
from mtaclip.checkpoint.hugging_face_clip import convert_hugging_face
from mtaclip.checkpoint.inert import read_inert
from mtaclip.checkpoint.renaming import Conversion
from mtaclip.files import replace_file
from mtaclip.modeling.clip_weights import ClipWeights, hugging_face_model, load_clip

_HEADS = {"image": 12, "text": 8}  # where Hugging Face's config.json does not say


def convert_clip(source: str | Path, target: str | Path) -> Conversion:
    """Write a CLIP model of Hugging Face as a state dict of open_clip, and beside it the model config for it.

    Args:
        source: folder of Hugging Face.
        target: the state dict, for MODEL.CLIP.PRETRAINED; MODEL.CLIP.ARCH takes the `.json` of the same name.

    Returns:
        What became of the tensors.

    Raises:
        FileNotFoundError: the folder, or a file in it, is not there.
        ValueError: it is damaged, no CLIP model, or not all of one.
        OSError: the file system refuses a file.
    """
    source, target = Path(source), Path(target)
    state = state_of(read_inert(source), source)
    try:
        conversion = convert_hugging_face(state)
        weights = ClipWeights(conversion.state, *hugging_face_model(source / "config.json"))
        arch = _arch(weights)
    except (IndexError, RuntimeError, ValueError) as error:
        raise ValueError(f"{source}: not a complete CLIP model of Hugging Face, {str(error).rstrip('.')}.") from error
    load_clip(open_clip.CLIP(**arch), weights, str(source), str(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_suffix(".json")
    replace_file(file, (json.dumps(arch, indent=2) + "\n").encode())
    save_atomically(conversion.state, target)
    conversion.notes.append(
        f"For MODEL.CLIP.PRETRAINED {target}, MODEL.CLIP.ARCH is {file}, or open_clip's equal model."
    )
    return conversion


def _arch(weights: ClipWeights) -> dict[str, Any]:
    """open_clip's model config for weights of Hugging Face."""
    state = weights.state
    heads = _HEADS | weights.heads
    width, _, patch, _ = shape(state, "visual.conv1.weight")
    positions, _ = shape(state, "visual.positional_embedding")
    context, text_width = shape(state, "positional_embedding")
    for tower, size in (("image", width), ("text", text_width)):
        if size % heads[tower]:
            raise ValueError(f"the {tower} tower is {size} wide, which {heads[tower]} attention heads do not divide")
    return {
        "embed_dim": shape(state, "text_projection")[1],
        "quick_gelu": weights.quick_gelu,
        "vision_cfg": {
            "image_size": round((positions - 1) ** 0.5) * patch,
            "layers": count(state, r"visual\.transformer\.resblocks\.(\d+)\..+"),
            "width": width,
            "head_width": width // heads["image"],
            "mlp_ratio": shape(state, "visual.transformer.resblocks.0.mlp.c_fc.weight")[0] / width,
            "patch_size": patch,
        },
        "text_cfg": {
            "context_length": context,
            "vocab_size": shape(state, "token_embedding.weight")[0],
            "width": text_width,
            "heads": heads["text"],
            "layers": count(state, r"transformer\.resblocks\.(\d+)\..+"),
        },
    }
