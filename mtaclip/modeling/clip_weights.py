"""Pretrained CLIP weights: what a file says about itself, and fitting it to an open_clip model."""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip.checkpoint.files import format_of, read_settings, read_state
from mtaclip.checkpoint.hugging_face_clip import convert_hugging_face, is_hugging_face
from mtaclip.checkpoint.loading import misfits

Tower = Literal["image", "text"]

_logger = logging.getLogger(__name__)
# Tensors of CLIP files that no tower has.
_APART = {"logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size", "attn_mask"}
_GRIDS = ("visual.positional_embedding", "visual.attnpool.positional_embedding")
_TEXT_POSITIONS = "positional_embedding"
_NORM_EPS = 1e-5  # of open_clip's LayerNorm
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}


@dataclass(frozen=True)
class ClipWeights:
    """Tensors of a CLIP model, and what their file says about the model beyond them.

    Args:
        state: tensors under open_clip's names.
        quick_gelu: whether the activation is QuickGELU; None where the file does not say.
        heads: attention heads of the towers; empty where the file does not say.
    """

    state: dict[str, Tensor]
    quick_gelu: bool | None
    heads: dict[Tower, int]


def read_clip(path: Path, *, allow_pickle: bool = False) -> ClipWeights:
    """Read CLIP weights.

    Args:
        path: OpenAI's TorchScript archive, a state dict of open_clip or of Hugging Face in any format of
            `mtaclip.checkpoint.files`, or a folder of either.
        allow_pickle: see `read_content`.

    Raises:
        FileNotFoundError: there is no such file, or, of Hugging Face's names, no config.json beside it.
        ValueError: the file cannot be read, or is of another kind of model.
    """
    state = read_state(path, allow_pickle=allow_pickle)
    folder = path if path.is_dir() else path.parent
    if is_hugging_face(state):
        try:
            state = convert_hugging_face(state).state
        except (ValueError, RuntimeError) as error:  # the latter where shapes are none of a CLIP model
            raise ValueError(f"{path}: {error}.") from error
        return ClipWeights(state, *hugging_face_model(folder / "config.json"))
    if path.is_file() and format_of(path) == "torchscript":
        return ClipWeights(state, quick_gelu=True, heads={})  # only OpenAI published such archives
    config = folder / "open_clip_config.json"
    quick_gelu = bool(_section(read_settings(config), "model_cfg").get("quick_gelu")) if config.is_file() else None
    return ClipWeights(state, quick_gelu, heads={})


def hugging_face_model(config: Path) -> tuple[bool, dict[Tower, int]]:
    """Whether the activation of a CLIP model of Hugging Face is QuickGELU, and the heads of its towers.

    Args:
        config: its config.json.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or of a model that open_clip's cannot be.
    """
    content = read_settings(config)
    towers: dict[Tower, dict] = {"image": _section(content, "vision_config"), "text": _section(content, "text_config")}
    activations = {str(tower.get("hidden_act", "quick_gelu")) for tower in towers.values()}  # the library's default
    if content.get("model_type") != "clip" or not activations <= set(_ACTIVATIONS) or len(activations) != 1:
        raise ValueError(
            f"{config}: model_type {content.get('model_type')!r} with hidden_act {sorted(activations)}, "
            "where a 'clip' with 'quick_gelu' or 'gelu' in both towers is needed."
        )
    for name, tower in towers.items():
        if tower.get("layer_norm_eps", _NORM_EPS) != _NORM_EPS:
            raise ValueError(
                f"{config}: layer_norm_eps of the {name} tower is {tower['layer_norm_eps']}, where {_NORM_EPS} is "
                "needed."
            )
    heads = {name: tower["num_attention_heads"] for name, tower in towers.items() if "num_attention_heads" in tower}
    for name, number in heads.items():
        if type(number) is not int or number < 1:
            raise ValueError(f"{config}: num_attention_heads of the {name} tower is {number!r}, which is no number.")
    return _ACTIVATIONS[activations.pop()], heads


def _section(content: dict[str, Any], key: str) -> dict[str, Any]:
    section = content.get(key)
    return section if isinstance(section, dict) else {}


def load_clip(model: nn.Module, weights: ClipWeights, source: str, arch: str, tower: Tower | None = None) -> None:
    """Load CLIP weights into an open_clip model of the same architecture.

    Tables of positions may have other sizes: those of image towers are resized bilinearly, of those of text towers the
    first rows are taken.

    Args:
        model: changed in place.
        weights: of `read_clip`.
        source: where they come from, for messages.
        arch: name of the model, for messages.
        tower: the one that is needed and loaded; None needs and loads both.

    Raises:
        ValueError: the tower is missing, or a tensor is missing, unknown or of another shape.
    """
    whole = model.state_dict()
    wanted = {name: tensor for name, tensor in whole.items() if tower in (None, _tower(name)) and name not in _APART}
    state = {name: tensor for name, tensor in weights.state.items() if name not in _APART}
    for name in ("image", "text"):
        if tower in (None, name) and not any(_tower(key) == name for key in state if key in whole):
            raise ValueError(f"MODEL.CLIP.PRETRAINED: {source} holds no {name} tower of CLIP.")
    state = {name: tensor for name, tensor in state.items() if name in wanted or name not in whole}
    _fit_positions(state, model)
    problems = misfits(wanted, state)
    if problems:
        raise ValueError(
            f"MODEL.CLIP.PRETRAINED: {source} does not fit MODEL.CLIP.ARCH {arch!r}: {'; '.join(problems)}; take the "
            "model that it was trained as."
        )
    model.load_state_dict(state, strict=False)
    _logger.info("%s: loaded %d tensors into %s", source, len(wanted), arch)


def _tower(name: str) -> Tower:
    return "image" if name.startswith("visual.") else "text"


def _fit_positions(state: dict[str, Tensor], model: nn.Module) -> None:
    """Resize the tables of positions in a state dict that have another length than the model's."""
    own = model.state_dict()
    for name in {*_GRIDS, _TEXT_POSITIONS} & own.keys() & state.keys():
        given, rows = state[name], len(own[name])
        if given.dim() != 2 or len(given) < 2 or len(given) == rows:
            continue
        if name == _TEXT_POSITIONS:
            state[name] = given[:rows]
        else:
            side = math.isqrt(rows - 1)
            grid = getattr(model.visual, "grid_size", (side, side))
            state[name] = _resized(given, grid)
        _logger.info("%s: %d positions from %d", name, rows, len(given))


def _resized(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A table (1 + h * w, E) of a class token and a square grid for another grid; as it is if its own is not square."""
    side = math.isqrt(len(table) - 1)
    if side * side != len(table) - 1:
        return table
    old = table[1:].float().T.unflatten(1, (side, side))[None]
    new = F.interpolate(old, size=grid, mode="bilinear", align_corners=False)
    return torch.cat([table[:1].float(), new[0].flatten(1).T])
