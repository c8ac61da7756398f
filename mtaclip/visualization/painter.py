"""All kinds of pictures of a prediction, of images and of video frames."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtaclip.visualization.confidence import draw_confidence
from mtaclip.visualization.legend import count_pixels, draw_legend, legend_entries
from mtaclip.visualization.overlay import draw_overlay, draw_side_by_side
from mtaclip.visualization.palette import Palette, colour_map, hide_classes

KINDS = ("overlay", "colours", "ids", "legend", "side-by-side", "confidence")
FILMED_KINDS = ("overlay", "colours", "side-by-side", "confidence")  # those that become videos

_HIDDEN_NAME = "(other classes)"


@dataclass(frozen=True, eq=False)
class Segmented:
    """An image and what the model says about it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids, 255 = ignore.
        confidence: (H, W) float32, 0 .. 1; None where no picture needs it.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Painter:
    """Draws pictures in one style.

    Attributes:
        palette: names and colours of the classes.
        opacity: share of the class colour in the overlay, 0 .. 1.
        shown: train ids of the classes to show; the others become the ignore label. None shows all.
        legend_background: one of `LEGEND_BACKGROUNDS`.
    """

    palette: Palette
    opacity: float = 0.5
    shown: tuple[int, ...] | None = None
    legend_background: str = "light"

    def picture(self, kind: str, segmented: Segmented) -> NDArray[np.uint8]:
        """Draw a picture of one image.

        Args:
            kind: one of `KINDS`.
            segmented: image and prediction.

        Returns:
            "overlay" and "side-by-side": RGB with class names, enlarged if the image is small. "colours" and
            "confidence": (H, W, 3) RGB. "ids": (H, W) train ids. "legend": RGB of a size of its own.

        Raises:
            ValueError: image and labels do not fit each other or the palette, or the kind needs a confidence.
        """
        labels = self.ids(segmented)
        if kind == "ids":
            return labels
        if kind == "legend":
            return self.legend(self.count(segmented))
        if kind in ("colours", "confidence"):
            return self.frame(kind, segmented)
        overlay = draw_overlay(segmented.image, labels, self.palette, self.opacity)
        return overlay if kind == "overlay" else draw_side_by_side(segmented.image, overlay)

    def frame(self, kind: str, segmented: Segmented) -> NDArray[np.uint8]:
        """Draw a frame of a video: as `picture`, but never enlarged.

        Args:
            kind: one of `FILMED_KINDS`.
            segmented: image and prediction.

        Returns:
            (H, W, 3) uint8 RGB; (H, 2*W + 8, 3) side by side.

        Raises:
            ValueError: see `picture`.
        """
        labels = self.ids(segmented)
        if kind == "colours":
            return colour_map(labels, self.palette.colours)
        if kind == "confidence":
            if segmented.confidence is None:
                raise ValueError("a picture of the confidence needs the confidence.")
            hidden = None if self.shown is None else ~np.isin(segmented.labels, self.shown)
            return draw_confidence(segmented.confidence, hidden)
        overlay = draw_overlay(segmented.image, labels, self.palette, self.opacity, min_edge=0)
        return overlay if kind == "overlay" else draw_side_by_side(segmented.image, overlay)

    def count(self, segmented: Segmented) -> NDArray[np.int64]:
        """Pixels of every label that is shown, (256,), for `legend`."""
        return count_pixels(self.ids(segmented), self.palette)

    def legend(self, pixels: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Draw the legend of one image or, with summed pixels, of many.

        Args:
            pixels: (256,) of `count`.

        Returns:
            uint8 RGB.
        """
        name = {} if self.shown is None else {"ignored_name": _HIDDEN_NAME}
        return draw_legend(legend_entries(pixels, self.palette, **name), self.legend_background)

    def ids(self, segmented: Segmented) -> NDArray[np.uint8]:
        """Train ids of the classes that are shown, (H, W) uint8; 255 elsewhere."""
        return segmented.labels if self.shown is None else hide_classes(segmented.labels, self.shown)
