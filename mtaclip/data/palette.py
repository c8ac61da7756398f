"""Colours for datasets that define none."""

from functools import lru_cache

import cv2
import numpy as np

_STEPS = 12  # candidate colours: a lattice of this many values per channel
_DARKEST = 40.0  # lightness (of 100) below which a colour could be taken for the black of ignored pixels


@lru_cache(maxsize=8)
def distinct_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """Choose colours that are far apart: each is the candidate with the largest distance to all chosen before it.

    Distances are Euclidean in CIE Lab. The first colours do not depend on how many follow.

    Args:
        count: number of colours, up to 1000.

    Returns:
        `count` distinct (red, green, blue) tuples, 0..255.
    """
    channel = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(channel, channel, channel, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = cv2.cvtColor((candidates / np.float32(255.0)).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]
    bright = lab[:, 0] >= _DARKEST
    candidates, lab = candidates[bright], lab[bright]
    chosen: list[tuple[int, int, int]] = []
    distance = np.linalg.norm(lab - np.float32([_DARKEST, 0.0, 0.0]), axis=1)
    for _ in range(count):
        best = int(np.argmax(distance))
        red, green, blue = candidates[best].tolist()
        chosen.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(lab - lab[best], axis=1))
    return tuple(chosen)
