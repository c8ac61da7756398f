"""Label maps of whole images and of sliding windows (MaskFormer).

Letters: B windows, Q mask queries, C classes, H, W size of an image in pixels.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtaclip.inference.canvas import Canvas
from mtaclip.inference.resize import Size
from mtaclip.inference.windows import Window, window_spans

MaskClassifier = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SlidingWindow:
    """How windows cover an image.

    Attributes:
        crop: height and width of a window in pixels.
        stride: vertical and horizontal distance of neighbouring windows in pixels.
        batch: windows that the model sees at a time, also of several images.

    Raises:
        ValueError: a number is not positive, or windows would leave gaps.
    """

    crop: Size
    stride: Size
    batch: int = 1

    def __post_init__(self) -> None:
        for key, value in (("CROP_SIZE", min(self.crop)), ("STRIDE", min(self.stride)), ("BATCH", self.batch)):
            if value < 1:
                raise ValueError(f"TEST.SLIDING_WINDOW.{key} must be positive, got {value}.")
        if self.stride[0] > self.crop[0] or self.stride[1] > self.crop[1]:
            raise ValueError(
                f"TEST.SLIDING_WINDOW.STRIDE {self.stride} is larger than TEST.SLIDING_WINDOW.CROP_SIZE {self.crop}, "
                "so that nothing would see the pixels between the windows."
            )


@dataclass(frozen=True)
class SemanticInference:
    """From images to label maps, with memory for a few tiles of scores only.

    Attributes:
        window: None sees whole images, of which those of equal size share a batch.
        query_eps: a score may be too small by this at most, since queries that cannot matter are left out; it is used
            where the sum is computed on a CPU (a GPU would have to wait for the host to count them).
        device: where class and mask probabilities are summed; None is where the model is.
        smallest: pixels that the model needs each way; a smaller window is continued by its last row or column.

    Raises:
        ValueError: `query_eps` is negative.
    """

    window: SlidingWindow | None = None
    query_eps: float = 0.0
    device: torch.device | None = None
    smallest: int = 1

    def __post_init__(self) -> None:
        if not self.query_eps >= 0:
            raise ValueError(f"TEST.QUERY_EPS must be 0 or more, got {self.query_eps}.")

    @torch.no_grad()
    def __call__(
        self, classify: MaskClassifier, images: Sequence[Tensor], sizes: Sequence[Size], keep_scores: Sequence[bool]
    ) -> list[dict[str, Tensor]]:
        """Segment images.

        Args:
            classify: (B, 3, h, w) windows -> (B, Q, C) class probabilities and (B, Q, h', w') mask logits.
            images: (3, H, W) each, of one data type and on one device.
            sizes: (height, width) of each result.
            keep_scores: for each image, whether its scores are wanted too.

        Returns:
            for each image {"labels": (height, width) uint8}, 255 where scores are not finite, and where they are wanted
            "sem_seg": (C, height, width) float32 scores.
        """
        device = self.device or images[0].device
        eps = self.query_eps if device.type == "cpu" else 0.0
        spans = [self._spans(image) for image in images]
        canvases = [
            Canvas(rows, columns, size, keep_scores=keep, eps=eps, device=device)
            for (rows, columns), size, keep in zip(spans, sizes, keep_scores, strict=True)
        ]
        for batch in self._batches(spans):
            batch = [(i, self._at_least(y), self._at_least(x)) for i, y, x in batch]
            windows = torch.stack([_crop(images[i], y, x) for i, y, x in batch])
            probabilities, masks = classify(windows)
            with torch.autocast(device.type, enabled=False):
                for (index, rows, columns), *parts in zip(batch, probabilities.float(), masks, strict=True):
                    canvases[index].add(Window(rows, columns, *parts))
        return [
            {"labels": canvas.labels} | ({} if canvas.scores is None else {"sem_seg": canvas.scores})
            for canvas in canvases
        ]

    def _spans(self, image: Tensor) -> tuple[list[range], list[range]]:
        """Rows and columns of an image's windows."""
        height, width = image.shape[-2:]
        if self.window is None:
            return [range(height)], [range(width)]
        (down, across), (vertical, horizontal) = self.window.crop, self.window.stride
        return window_spans(height, down, vertical), window_spans(width, across, horizontal)

    def _at_least(self, span: range) -> range:
        return range(span.start, max(span.stop, span.start + self.smallest))

    def _batches(self, spans: list[tuple[list[range], list[range]]]) -> Iterator[list[tuple[int, range, range]]]:
        """Windows of equal size, each with the number of its image; those of one image in their order."""
        windows = [(index, y, x) for index, (rows, columns) in enumerate(spans) for y in rows for x in columns]
        windows.sort(key=lambda window: (len(window[1]), len(window[2])))  # stable
        limit = len(windows) if self.window is None else self.window.batch
        batch: list[tuple[int, range, range]] = []
        for window in windows:
            shape = (len(window[1]), len(window[2]))
            if batch and (len(batch) == limit or shape != (len(batch[0][1]), len(batch[0][2]))):
                yield batch
                batch = []
            batch.append(window)
        yield batch


def _crop(image: Tensor, rows: range, columns: range) -> Tensor:
    """A window of an image (3, H, W), beyond whose edges its last row and column go on."""
    height, width = image.shape[-2:]
    window = image[:, rows.start : rows.stop, columns.start : columns.stop]
    if rows.stop <= height and columns.stop <= width:
        return window
    down = torch.arange(len(rows), device=image.device).clamp_(max=window.shape[1] - 1)
    across = torch.arange(len(columns), device=image.device).clamp_(max=window.shape[2] - 1)
    return window[:, down][:, :, across]
