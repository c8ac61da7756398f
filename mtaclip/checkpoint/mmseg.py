"""The authors' released checkpoints, as MMEngine stores them, with what is known about their use."""

from collections.abc import Mapping

from torch import Tensor

from mtaclip.checkpoint.conversion import Conversion
from mtaclip.checkpoint.released import is_released, released_name


def convert_mmseg(state: Mapping[str, Tensor]) -> Conversion:
    """Rename a released MTA-CLIP.

    Args:
        state: tensors by their names there.

    Raises:
        ValueError: a name that no rule explains, or no MTA-CLIP at all.
    """
    if not is_released(state):
        raise ValueError("holds no decode_head, so that it is no released MTA-CLIP")
    is_vit = "backbone.class_embedding" in state
    conversion = Conversion({}, {}, {}, guesses={"TEST.SLIDING_WINDOW.ENABLED": True})
    for key, tensor in state.items():
        name = released_name(key, is_vit)
        if name is None:
            conversion.dropped[key] = "the released model never uses it"
        else:
            conversion.names[key], conversion.state[name] = name, tensor
    return conversion
