"""The authors' released checkpoints, as MMEngine stores them, with what is known about their use."""

from collections.abc import Mapping

from torch import Tensor

from mtaclip.checkpoint.released import convert_released, is_released
from mtaclip.checkpoint.renaming import Conversion


def convert_mmseg(state: Mapping[str, Tensor]) -> Conversion:
    """Rename a released MTA-CLIP.

    Args:
        state: tensors by their names there.

    Raises:
        ValueError: a name that no rule explains, or no MTA-CLIP at all.
    """
    if not is_released(state):
        raise ValueError("holds no decode_head, so that it is no released MTA-CLIP")
    conversion = convert_released(state)
    conversion.guesses = {"TEST.SLIDING_WINDOW.ENABLED": True}
    return conversion
