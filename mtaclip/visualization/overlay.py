"""Segments drawn over their image, with class names.

Shapes: `H, W` image size, `s` the whole number by which small images are enlarged.
"""

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from detectron2.utils.visualizer import VisImage, Visualizer
from numpy.typing import NDArray
from PIL import Image

from mtaclip.visualization.palette import Palette, check_labels

_MAX_ENLARGED_EDGE = 2048
_STRIP = 8  # pixels between image and overlay side by side; even, as video codecs need
_CAPTION_COLOUR = "white"
_CAPTION_GAP = 3.0  # pixels kept free round a caption
_CAPTION_TRIES = 8  # places tried for one class's caption


def draw_overlay(
    image: NDArray[np.uint8], labels: NDArray[np.uint8], palette: Palette, opacity: float = 0.5, min_edge: int = 512
) -> NDArray[np.uint8]:
    """Lay the classes' colours over an image, outline the segments and name them.

    Small images are enlarged first, since no text is legible on them. Of a name with synonyms, as ADE20K has them, only
    the first is written. A class whose name finds no room stays without one; the legend
    (`mtaclip.visualization.legend`) has them all. Ignored pixels show the image.

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
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image must be (H, W, 3) uint8, not {image.shape} {image.dtype}.")
    if labels.shape != image.shape[:2]:
        raise ValueError(f"the label map is {labels.shape} but the image {image.shape[:2]} (height, width).")
    if not 0.0 <= opacity <= 1.0:
        raise ValueError(f"the opacity must lie between 0 and 1, not {opacity}.")
    check_labels(labels, len(palette.names))
    image, labels = _enlarge(image, labels, min_edge)
    if opacity == 0.0:
        return image
    painter = _SegmentPainter(image, palette)
    painter.draw_sem_seg(labels, alpha=opacity)
    return painter.picture()


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


class _SegmentPainter(Visualizer):
    """Detectron2's visualizer with two differences: segments keep every pixel, captions keep clear of each other.

    Detectron2 draws a segment as polygons, which lose thin parts and fill small holes.
    """

    def __init__(self, image: NDArray[np.uint8], palette: Palette) -> None:
        classes: Any = SimpleNamespace(stuff_classes=palette.names, stuff_colors=palette.colours.tolist())
        super().__init__(image, classes)
        self._painted = image.copy()
        self._captions: list[tuple[float, float, float, float]] = []

    def picture(self) -> NDArray[np.uint8]:
        """The image with what was drawn, (H, W, 3) uint8 RGB. Matplotlib draws the captions alone.

        Before version 3.11 it shifts the pixels of images.
        """
        for image in list(self.output.ax.images):
            image.remove()
        drawn, (width, height) = self.output.canvas.print_to_buffer()
        captions = np.frombuffer(drawn, np.uint8).reshape(height, width, 4).astype(np.float32)
        alpha = captions[..., 3:] / 255.0
        return np.rint((1.0 - alpha) * self._painted + alpha * captions[..., :3]).astype(np.uint8)

    def draw_binary_mask(
        self,
        binary_mask: NDArray[np.uint8],
        color: Any = None,
        *,
        edge_color: Any = None,
        text: str | None = None,
        alpha: float = 0.5,
        area_threshold: int | None = 0,
    ) -> VisImage:
        """Blend one class's colour into its pixels, its outline fully; `draw_sem_seg` calls this for every class.

        Arguments and result are those of Detectron2's method; `edge_color` and `area_threshold` are not used.
        """
        colour = 255.0 * np.asarray(color)
        inside = binary_mask.astype(bool)
        self._painted[inside] = np.rint((1.0 - alpha) * self._painted[inside] + alpha * colour).astype(np.uint8)
        outline = inside & (cv2.erode(binary_mask, np.ones((3, 3), np.uint8)) == 0)
        self._painted[outline] = np.rint(colour).astype(np.uint8)
        if text is not None:
            self._draw_caption(text.partition(",")[0], binary_mask)
        return self.output

    def _draw_caption(self, text: str, binary_mask: NDArray[np.uint8]) -> None:
        """Write `text` deep inside the segment where it covers no other caption, or not at all."""
        self.draw_text(text, (0, 0), color=_CAPTION_COLOUR)
        caption = self.output.ax.texts[-1]
        extent = caption.get_window_extent(self.output.canvas.get_renderer())
        width, height = extent.width + 2 * _CAPTION_GAP, extent.height + 2 * _CAPTION_GAP
        # Distance of every pixel to the nearest one outside the segment; beyond the image is outside, too.
        depth = cv2.distanceTransform(np.pad(binary_mask, 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        for _ in range(_CAPTION_TRIES):
            deepest = depth.max()
            if deepest < height / 2:
                break
            ridge = np.argwhere(depth > 0.95 * deepest)
            y, x = ridge[np.square(ridge - ridge.mean(axis=0)).sum(axis=1).argmin()].tolist()
            box = self._box_inside(x, y, width, height)
            if box is not None and not any(_overlap(box, other) for other in self._captions):
                caption.set_position(((box[0] + box[2]) / 2, box[1] + _CAPTION_GAP))
                self._captions.append(box)
                return
            top, left = max(int(y - height), 0), max(int(x - width / 2), 0)
            depth[top : int(y + height) + 1, left : int(x + width / 2) + 1] = 0.0  # look elsewhere next time
        caption.remove()

    def _box_inside(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float] | None:
        """Box (left, top, right, bottom) round a point, moved into the image; None if it is larger than the image."""
        if width > self.output.width or height > self.output.height:
            return None
        left = min(max(x - width / 2, 0.0), self.output.width - width)
        top = min(max(y - height / 2, 0.0), self.output.height - height)
        return left, top, left + width, top + height


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
