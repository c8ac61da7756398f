"""Colours for datasets that define none, and colours for everybody's eyes."""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]

_STEPS = 12  # candidate colours: a lattice of this many values per channel
_DARKEST = 40.0  # lightness (of 100) below which a colour could be taken for the black of ignored pixels
# Okabe and Ito's qualitative colours (2008), without black.
OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
# Linear RGB as it is seen without the long, middle and short cones: Machado, Oliveira and Fernandes (2009), severity 1.
_DEFICIENCIES = np.array(
    [
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ]
)


@lru_cache(maxsize=8)
def distinct_colours(count: int, taken: tuple[Colour, ...] = ()) -> tuple[Colour, ...]:
    """Choose colours that are far apart: each is the candidate with the largest distance to all chosen before it.

    Distances are Euclidean in CIE Lab. The first colours do not depend on how many follow.

    Args:
        count: number of colours, up to 1000 with those that are taken.
        taken: colours that are chosen already and not returned again.

    Returns:
        `count` distinct (red, green, blue) tuples, 0..255.
    """
    candidates = _candidates()
    lab = _lab(candidates)[None]
    distance = np.linalg.norm(lab[0] - np.float32([_DARKEST, 0.0, 0.0]), axis=1)
    for colour in taken:
        distance = np.minimum(distance, np.linalg.norm(lab[0] - _lab(np.uint8([colour])), axis=1))
    return _spread(candidates, lab, distance, count)


@lru_cache(maxsize=8)
def colour_blind_colours(count: int) -> tuple[Colour, ...]:
    """Okabe and Ito's seven colours, continued by those that stay furthest apart for eyes with and without deficiency.

    The distance of two colours is the smallest of four in CIE Lab: as seen by normal eyes, and as simulated for
    protanopia, deuteranopia and tritanopia. No set of more than about a dozen is safe for everybody; outlines and names
    then have to help.

    Args:
        count: number of colours, up to 1000.

    Returns:
        `count` distinct (red, green, blue) tuples, 0..255; the first seven are `OKABE_ITO`.
    """
    candidates = _candidates()
    chosen = OKABE_ITO[:count]
    lab = seen_colours(candidates)
    taken = seen_colours(np.array(chosen, dtype=np.uint8))
    distance = np.linalg.norm(lab[:, :, None] - taken[:, None], axis=-1).min(axis=(0, 2))
    return chosen + _spread(candidates, lab, distance, count - len(chosen))


def seen_colours(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colours in CIE Lab as they are seen by normal eyes, and with protanopia, deuteranopia and tritanopia.

    Args:
        colours: (N, 3) uint8 RGB.

    Returns:
        (4, N, 3).
    """
    value = colours / 255.0
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.einsum("vij,nj->vni", _DEFICIENCIES, linear).clip(0.0, 1.0)
    encoded = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    return np.stack([_lab(colours), *(_lab(255.0 * view) for view in encoded)])


def _candidates() -> NDArray[np.uint8]:
    channel = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(channel, channel, channel, indexing="ij"), axis=-1).reshape(-1, 3)
    return lattice[_lab(lattice)[:, 0] >= _DARKEST]


def _lab(colours: NDArray) -> NDArray[np.float32]:
    return cv2.cvtColor((colours / np.float32(255.0)).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0]


def _spread(
    candidates: NDArray[np.uint8], lab: NDArray[np.float32], distance: NDArray[np.float32], count: int
) -> tuple[Colour, ...]:
    """Take the furthest candidate again and again.

    Args:
        candidates: (N, 3) uint8 RGB.
        lab: (V, N, 3), the candidates as V kinds of eyes see them; the smallest distance of the V counts.
        distance: (N,), to what was chosen before.
        count: how many to take.
    """
    chosen: list[Sequence[int]] = []
    for _ in range(count):
        best = int(np.argmax(distance))
        chosen.append(candidates[best].tolist())
        distance = np.minimum(distance, np.linalg.norm(lab - lab[:, best, None], axis=-1).min(axis=0))
    return tuple((red, green, blue) for red, green, blue in chosen)
