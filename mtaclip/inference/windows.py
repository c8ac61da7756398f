"""Windows over an image, and what the model says about one of them.

Letters: Q mask queries, C classes, H, W size of a window in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtaclip.inference.resize import crop_source, resize_part


def window_spans(length: int, window: int, stride: int) -> list[range]:
    """The windows along one axis; the last one is shifted back so that it ends inside.

    Args:
        length: pixels of the image.
        window: pixels of a window; a longer window than the image gives one span.
        stride: pixels between neighbours.
    """
    last = max(length - window, 0)
    return [range(start, min(start + window, length)) for start in [*range(0, last, stride), last]]


@dataclass
class Window:
    """Mask classification of one window, from which the class scores of any of its pixels follow.

    Attributes:
        rows: of the image.
        columns: of the image.
        probabilities: (Q, C) float32 class probabilities; what they miss to 1 is that of no object.
        masks: (Q, h, w) mask logits, at any resolution; they are resized bilinearly before the sigmoid.
    """

    rows: range
    columns: range
    probabilities: Tensor
    masks: Tensor

    def scores(self, rows: range, columns: range, eps: float = 0.0) -> Tensor:
        """Sum over queries of class probability times mask probability.

        Args:
            rows: of the image, inside the window.
            columns: of the image, inside the window.
            eps: leave out queries whose joint share in any score is provably at most this; where it is not 0, how
                many there are is read by the host.

        Returns:
            (C, rows, columns) float32.
        """
        probabilities, source = self.probabilities, self._source(rows, columns)
        if eps > 0:
            kept = _relevant(probabilities, source, eps)
            probabilities, source = probabilities[kept], source[kept]
        masks = self._resized(source, rows, columns)
        return (probabilities.mT @ masks.flatten(1)).unflatten(1, (len(rows), len(columns)))

    def mask_probabilities(self, rows: range, columns: range) -> Tensor:
        """Mask probabilities of all queries, (Q, rows, columns) float32; arguments are those of `scores`."""
        return self._resized(self._source(rows, columns), rows, columns)

    def _source(self, rows: range, columns: range) -> Tensor:
        """The mask logits that a part of the window is made of, (Q, ...) float32."""
        size = (len(self.rows), len(self.columns))
        return crop_source(self.masks, size, _inside(rows, self.rows), _inside(columns, self.columns))

    def _resized(self, source: Tensor, rows: range, columns: range) -> Tensor:
        """Mask probabilities of a part of the window from its `_source`, (..., rows, columns)."""
        size = (len(self.rows), len(self.columns))
        rows, columns = _inside(rows, self.rows), _inside(columns, self.columns)
        return resize_part(source, self.masks.shape[-2:], size, rows, columns).sigmoid_()


def _inside(span: range, window: range) -> range:
    return range(span.start - window.start, span.stop - window.start)


def _relevant(probabilities: Tensor, logits: Tensor, eps: float) -> Tensor:
    """Indices of all queries but those that together add at most `eps` to the score of any class at any pixel.

    A query adds at most its largest class probability times its largest mask probability, and resizing does not raise
    the latter.
    """
    shares, order = (probabilities.amax(dim=1) * logits.amax(dim=(1, 2)).sigmoid()).sort()
    dropped = int(torch.count_nonzero(shares.cumsum(0) <= eps))
    return order[dropped:].sort().values


def intersect(one: range, other: range) -> range:
    """What two spans have in common; empty if nothing."""
    return range(max(one.start, other.start), min(one.stop, other.stop))
