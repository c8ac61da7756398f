"""Segments drawn over their image, with class names.

Shapes: `H, W` image size, `s` the whole number by which small images are enlarged.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtaclip.visualization.captions import draw_captions
from mtaclip.visualization.palette import Palette, colour_map

_MAX_ENLARGED_EDGE = 2048
_STRIP = 8  # pixels between image and overlay side by side; even, as video codecs need


def draw_overlay(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], palette: Palette, opacity: float = 0.5, min_edge: int = 512
) -> NDArray[np.uint8]:
    """Lay the classes' colours over an image, outline the segments and name them.

    Small images are enlarged first, since no text is legible on them. A class whose name finds no room stays without
    one; the legend (`mtaclip.visualization.legend`) has them all. Ignored pixels show the image.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids, 255 = ignore.
        palette: names and colours of the classes.
        opacity: share of the class colour in a pixel, 0 .. 1. 0 draws nothing at all, neither outlines nor names.
        min_edge: enlarge by the smallest whole number s that gives the short edge this many pixels, as long as the
            long edge stays within 2048; 0 never enlarges.

    Returns:
        (s*H, s*W, 3) uint8 RGB.

    Raises:
        ValueError: shapes or types are not those above, a label is no class, or the opacity is outside 0 .. 1.
    """
    _check_image(image, labels)
    image, labels = _enlarge(image, labels, min_edge)
    blended = blend(image, labels, palette, opacity)
    return blended if opacity == 0.0 else draw_captions(blended, labels, palette)


def blend(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], palette: Palette, opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Lay the classes' colours over an image and outline the segments; fast, without names and enlargement.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids, 255 = ignore.
        palette: names and colours of the classes.
        opacity: share of the class colour in a pixel, 0 .. 1; outlines are opaque. 0 draws no outlines.

    Returns:
        (H, W, 3) uint8 RGB. Ignored pixels show the image.

    Raises:
        ValueError: see `draw_overlay`.
    """
    _check_image(image, labels)
    if not 0.0 <= opacity <= 1.0:
        raise ValueError(f"the opacity must lie between 0 and 1, not {opacity}.")
    colours = colour_map(labels, palette.colours)
    if opacity == 0.0:
        return image.copy()
    mixed = np.rint((1.0 - opacity) * image + opacity * colours).astype(np.uint8)
    window = np.ones((3, 3), np.uint8)
    outline = (cv2.erode(labels, window) != labels) | (cv2.dilate(labels, window) != labels)
    mixed[outline] = colours[outline]
    ignored = labels >= len(palette.names)
    mixed[ignored] = image[ignored]
    return mixed


def draw_side_by_side(image: NDArray[np.uint8], overlay: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Place an image and its overlay next to each other, with a white strip of eight pixels between them.

    Args:
        image: (H, W, 3) uint8 RGB; enlarged to the size of the overlay.
        overlay: (s*H, s*W, 3) uint8 RGB.

    Returns:
        (s*H, 2*s*W + 8, 3) uint8 RGB.
    """
    height, width = overlay.shape[:2]
    if image.shape != overlay.shape:
        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    strip = np.full((height, _STRIP, 3), 255, dtype=np.uint8)
    return np.concatenate([image, strip, overlay], axis=1)


def _check_image(image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be (H, W, 3) uint8, not {image.shape} {image.dtype}.")
    if labels.shape != image.shape[:2]:
        raise ValueError(f"the label map is {labels.shape} but the image {image.shape[:2]} (height, width).")


def _enlarge(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], min_edge: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    height, width = labels.shape
    scale = max(1, min(-(-min_edge // min(height, width)), _MAX_ENLARGED_EDGE // max(height, width)))
    if scale == 1:
        return image, labels
    size = (width * scale, height * scale)
    resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(resized), labels.repeat(scale, axis=0).repeat(scale, axis=1)
