"""Reading weight files and fitting them to a model."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn

from mtaclip.checkpoint.files import read_content, state_of
from mtaclip.checkpoint.released import convert_released, is_released
from mtaclip.data.vocabulary import same_text
from mtaclip.problems import printable

_logger = logging.getLogger("mtaclip.checkpoint")
_SHOWN = 3
_COUNTS = "num_batches_tracked"  # of BatchNorm, which is used without them
# Beginnings of the names of what only a model with texts has; and of what has other rows there.
_TEXT_SIDE = ("texts.", "decoder.alignment.", "criterion.contrastive.")
_POSITIONS = "decoder.query_position"
_CONVERT = "projects/MTACLIP/convert_checkpoint.py --from"
# What to do with the weights of other projects, by beginnings of their names.
_FOREIGN: dict[tuple[str, ...], str] = {
    ("sem_seg_head.",): f"these are weights of Mask2Former, which {_CONVERT} mask2former converts",
    ("model.pixel_level_module.",): (
        f"these are weights of Mask2Former by Hugging Face, whose folder {_CONVERT} maskformer-hf converts"
    ),
    ("visual.", "vision_model.", "text_model."): "these are weights of CLIP, which MODEL.CLIP.PRETRAINED takes",
}


def read_checkpoint(path: str | Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """Read a checkpoint without running any code in it.

    Args:
        path: a file of this project ({"model": ..., ...}), of the released code ({"state_dict": ...}) or a bare
            state dict, in any format of `mtaclip.checkpoint.files`; released names are converted.
        allow_pickle: read other pickled objects too. Such a file can run any code with your rights.

    Returns:
        {"model": state dict, and whatever else the file holds}.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, damaged, or one that would need to run code.
    """
    if not Path(path).exists():
        hint = "; weights are not downloaded: fetch the file, and name it" if "://" in str(path) else ""
        raise FileNotFoundError(f"MODEL.WEIGHTS: there is no file {str(path)!r}{hint}.")
    content = read_content(path, allow_pickle=allow_pickle)
    state = state_of(content, path)
    if is_released(state):
        try:
            conversion = convert_released(state)
        except ValueError as error:
            raise ValueError(f"{path}: {printable(str(error))}.") from error
        unused = list(conversion.dropped)
        _logger.info("%s: converted from the released names; %d tensors nothing uses: %s", path, len(unused), unused)
        state = conversion.state
    return (content if any(key in content for key in ("model", "state_dict")) else {}) | {"model": state}


def misfits(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from being loaded, by kind with the first names of each; empty if nothing does."""
    return [
        f"{len(keys)} tensors {what} ({printable(', '.join(keys[:_SHOWN]))}{', ...' if len(keys) > _SHOWN else ''})"
        for what, keys in _misfits(wanted, state).items()
        if keys
    ]


def _misfits(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of tensors by what is wrong with them; those of another shape or type have it behind the name."""
    both = [key for key in wanted if key in state]
    return {
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in both
            if state[key].shape != wanted[key].shape
        ],
        "of another type": [
            f"{key} {state[key].dtype} instead of {wanted[key].dtype}"
            for key in both
            if state[key].is_floating_point() != wanted[key].is_floating_point()
        ],
        "missing": [key for key in wanted if key not in state and not key.endswith(_COUNTS)],
        "unexpected": [key for key in state if key not in wanted and not key.endswith(_COUNTS)],
    }


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that fits the model in every name and shape.

    Args:
        model: changed in place.
        state: tensors by name.
        source: where they come from, for the message.

    Raises:
        ValueError: a tensor is missing, unexpected, or of another shape or type.
    """
    wanted = model.state_dict()
    problems = misfits(wanted, state)
    if problems:
        advice = _advice(wanted, state) or f"{'; '.join(problems)}; take the config it was trained with"
        raise ValueError(f"{source} does not fit the model: {advice}.")
    model.load_state_dict(state, strict=False)
    _logger.info("%s: loaded %d tensors, none missing, none unexpected", source, len(wanted))


def _advice(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    """What to do with weights that do not fit at all, or but for the text side; None where names have to tell."""
    for beginnings, what in _FOREIGN.items():
        if any(key.startswith(beginnings) for key in state):
            return what
    wants, has = (any(key.startswith(_TEXT_SIDE) for key in keys) for keys in (wanted, state))
    names = [key for keys in _misfits(wanted, state).values() for key in keys]
    if wants == has or not all(name.startswith((*_TEXT_SIDE, _POSITIONS)) for name in names):
        return None
    return (
        f"it has {'' if has else 'no '}weights for the text side, so that it belongs to a model with"
        f"{'' if has else 'out'} texts: take the config it was trained with (MODEL.MTACLIP.TEXT.ENABLED {has})"
    )


def check_complete(cfg: CfgNode) -> None:
    """Refuse MODEL.WEIGHTS_REINIT where the weights are not going to be trained.

    Raises:
        ValueError: it names parts.
    """
    if cfg.MODEL.WEIGHTS_REINIT:
        raise ValueError(
            f"MODEL.WEIGHTS_REINIT {tuple(cfg.MODEL.WEIGHTS_REINIT)} is for the start of a training; what is evaluated "
            "or used to predict needs every tensor of its checkpoint: set it to ()."
        )


def load_weights(
    model: nn.Module, path: str | Path, *, allow_pickle: bool = False, class_names: Sequence[str] = ()
) -> None:
    """Load a weight file that fits the model completely.

    Args:
        model: changed in place.
        path, allow_pickle: see `read_checkpoint`.
        class_names: see `compare_classes`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is no checkpoint, or does not fit.
    """
    checkpoint = read_checkpoint(path, allow_pickle=allow_pickle)
    load_state(model, checkpoint["model"], str(path))
    compare_classes(checkpoint, class_names, str(path))


def compare_classes(checkpoint: Mapping[str, Any], class_names: Sequence[str], source: str) -> None:
    """Warn where a checkpoint was trained with other class names, or in another order: its tensors fit all the same.

    Args:
        checkpoint: "class_names" is read, which trainings of this project store.
        class_names: of the data that the model is used for; none compares nothing.
        source: where the checkpoint comes from.
    """
    trained = checkpoint.get("class_names")
    if not isinstance(trained, list) or len(trained) != len(class_names):
        return
    pairs = zip(trained, class_names, strict=True)
    others = [(number, *pair) for number, pair in enumerate(pairs) if same_text(str(pair[0])) != same_text(pair[1])]
    if others:
        number, then, now = others[0]
        _logger.warning(
            "%s was trained with other class names: class %d was %r and is %r here; %d of %d differ. New names do no "
            "harm; in another order, scores and colours would be of the wrong classes.",
            *(source, number, then, now, len(others), len(trained)),
        )
