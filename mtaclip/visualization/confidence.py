"""The confidence of every pixel as a picture."""

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray


def draw_confidence(confidence: NDArray[np.float32], hidden: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Paint confidence in matplotlib's perceptually uniform, colour-blind-safe "cividis".

    Args:
        confidence: (H, W), 0 (dark blue) to 1 (yellow).
        hidden: (H, W), where pixels become black; None hides none.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: a value lies outside 0 .. 1.
    """
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError("confidence must lie between 0 and 1.")
    table = np.rint(255 * colormaps["cividis"](np.arange(256))[:, :3]).astype(np.uint8)
    picture = table[np.rint(255 * confidence).astype(np.uint8)]
    if hidden is not None:
        picture[hidden] = 0
    return picture
