"""Boundary IoU (Cheng et al., CVPR 2021) of semantic segmentation.

The boundary region of a class is what an erosion takes away from its mask: the pixels whose distance to the mask's
outside is at most d, measured as max(|dx|, |dy|), where beyond the image is outside, too. The boundary IoU of a class
is the intersection of the true and the predicted boundary region over their union, each summed over all images. d is
2 % of the image's diagonal, rounded, at least 1 pixel. Ignored pixels belong to no class, whatever is predicted there.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from mtaclip.evaluation.confusion import count_pairs

DILATION_RATIO = 0.02
_NO_CLASS = 255


def boundary_counts(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], num_classes: int, ignore_label: int
) -> NDArray[np.int64]:
    """Intersection and union of the true and predicted boundary regions of every class.

    A pixel belongs to the boundary region of its class if another class lies within d of it, so that two filters over
    the label map (largest and smallest label near a pixel) find the regions of all classes at once.

    Args:
        prediction: (H, W) uint8, classes 0 .. C-1.
        truth: (H, W) uint8, classes 0 .. C-1 or the ignore label.
        num_classes: number C of classes, at most 254.
        ignore_label: the true label of pixels that do not count.

    Returns:
        (2, C) int64: pixels of the intersection, pixels of the union.
    """
    ignored = truth == ignore_label
    width = boundary_width(truth.shape)
    regions = []
    for labels in (truth, prediction):
        labels = np.where(ignored, np.uint8(_NO_CLASS), labels)
        regions.append(np.where(_near_another(labels, width), labels, np.uint8(_NO_CLASS)))
    table = count_pairs(*regions)
    both = table.diagonal()
    either = table.sum(axis=0) + table.sum(axis=1) - both
    return np.stack([both[:num_classes], either[:num_classes]])


def boundary_width(size: tuple[int, ...]) -> int:
    """d in pixels, of an image of a size (height, width)."""
    return max(1, round(DILATION_RATIO * float(np.hypot(*size))))


def _near_another(labels: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Pixels within `width` of a pixel of another label or of the image's outside, bool (H, W)."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    edge = {"borderType": cv2.BORDER_REPLICATE}
    result = cv2.dilate(labels, kernel, **edge) != cv2.erode(labels, kernel, **edge)
    result[:width] = result[-width:] = True
    result[:, :width] = result[:, -width:] = True
    return result
