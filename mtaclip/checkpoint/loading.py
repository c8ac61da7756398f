"""Reading weight files and fitting them to a model."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtaclip.checkpoint.released import convert_released, is_released

_logger = logging.getLogger("mtaclip.checkpoint")
_SHOWN = 3
_TEXT_SIDE = ("texts.", "decoder.alignment.")  # beginnings of the names of what only a model with texts has


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running any code in it.

    Args:
        path: a file of this project ({"model": ..., ...}), of the released code ({"state_dict": ...}) or a bare
            state dict; released names are converted.

    Returns:
        {"model": state dict, and whatever else the file holds}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, damaged, or one that would need to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"MODEL.WEIGHTS: there is no file {str(path)!r}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path}: not a checkpoint that can be read safely: it is damaged, or holds objects other than tensors "
            f"and plain values ({str(error).splitlines()[0] if str(error) else type(error).__name__})."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a state dict.")
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), dict):
            content["model"] = content[key]
            break
    else:
        content = {"model": content}
    if is_released(content["model"]):
        content["model"], dropped = convert_released(content["model"])
        _logger.info("%s: converted from the released names; %d tensors nothing uses: %s", path, len(dropped), dropped)
    return content


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that fits the model in every name and shape.

    Args:
        model: changed in place.
        state: tensors by name.
        source: where they come from, for the message.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted and not key.endswith("num_batches_tracked")]
    other = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    problems = [
        f"{len(keys)} tensors {what} ({', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''})"
        for what, keys in (("of another shape", other), ("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    wants, has = (any(key.startswith(_TEXT_SIDE) for key in keys) for keys in (wanted, state))
    if problems and wants != has:
        raise ValueError(
            f"{source} has {'' if has else 'no '}weights for the text side, so that it belongs to a model "
            f"with{'' if has else 'out'} texts: take the config it was trained with (MODEL.MTACLIP.TEXT.ENABLED {has})."
        )
    if problems:
        raise ValueError(
            f"{source} does not fit the model: {'; '.join(problems)}; take the config it was trained with."
        )
    model.load_state_dict(state, strict=False)
    _logger.info("%s: loaded %d tensors, none missing, none unexpected", source, len(wanted))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a weight file that fits the model completely.

    Args:
        model: changed in place.
        path: see `read_checkpoint`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no checkpoint, or does not fit.
    """
    load_state(model, read_checkpoint(path)["model"], str(path))
