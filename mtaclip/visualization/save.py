"""A prediction as pictures on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtaclip.files import replace_file
from mtaclip.visualization.encode import encode_png
from mtaclip.visualization.painter import Painter, Segmented

IMAGE_KINDS = ("overlay", "colours", "ids", "legend")  # what is written unless something else is asked for


def save_prediction(
    folder: str | Path, stem: str, segmented: Segmented, painter: Painter, kinds: Sequence[str] = IMAGE_KINDS
) -> list[Path]:
    """Write the pictures of one image; files of the same names are replaced.

    Args:
        folder: where to write; created if needed.
        stem: beginning of the file names.
        segmented: image and prediction.
        painter: the style.
        kinds: which pictures, of `mtaclip.visualization.painter.KINDS`.

    Returns:
        the files, `<stem>_<kind>.png`: RGB, but `<stem>_ids.png` has one channel, the pixel value is the train id.

    Raises:
        ValueError: image and labels do not fit each other or the palette, or the opacity is outside 0 .. 1.
        OSError: a file cannot be written.
    """
    pictures = {kind: painter.picture(kind, segmented) for kind in kinds}
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [save_picture(pixels, Path(folder) / f"{stem}_{kind}.png") for kind, pixels in pictures.items()]


def save_picture(pixels: NDArray[np.uint8], file: Path) -> Path:
    """Write a PNG, complete or not at all.

    Args:
        pixels: uint8, (H, W, 3) RGB or (H, W).
        file: path to write; its folder is there.

    Returns:
        the path.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    try:
        replace_file(file, encode_png(pixels))
    except OSError as error:
        raise OSError(f"{file} cannot be written: {error.strerror or error}.") from error
    return file
