"""A prediction as pictures on disk."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtaclip.visualization.legend import draw_legend
from mtaclip.visualization.overlay import draw_overlay
from mtaclip.visualization.palette import Palette, colour_map


def save_prediction(
    folder: str | Path,
    stem: str,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: Palette,
    opacity: float = 0.5,
) -> list[Path]:
    """Write overlay, colour map, train ids and legend of one image; files of the same names are replaced.

    Args:
        folder: where to write; created if needed.
        stem: beginning of the file names.
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids, 255 = ignore.
        palette: names and colours of the classes.
        opacity: share of the class colour in the overlay, 0 .. 1.

    Returns:
        the four files: `<stem>_overlay.png` (enlarged if the image is small), `<stem>_colour.png` (RGB),
        `<stem>_ids.png` (one channel, the pixel value is the train id) and `<stem>_legend.png`.

    Raises:
        ValueError: shapes or types are not those above, a label is no class, or the opacity is outside 0 .. 1.
        OSError: a file cannot be written.
    """
    pictures = {
        "overlay": draw_overlay(image, labels, palette, opacity),
        "colour": colour_map(labels, palette.colours),
        "ids": labels,
        "legend": draw_legend(labels, palette),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    files = []
    for kind, pixels in pictures.items():
        file = Path(folder) / f"{stem}_{kind}.png"
        Image.fromarray(pixels).save(file)
        files.append(file)
    return files
