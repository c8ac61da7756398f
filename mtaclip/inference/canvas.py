"""From the windows of one image to its label map, tile by tile.

Letters: C classes, H, W size at which the model sees the image, Q mask queries.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mtaclip.inference.resize import Size, resize_part, source_span
from mtaclip.inference.windows import Window, intersect

INVALID = 255  # label of a pixel whose scores are not finite
# Rows and columns of a tile. On a CPU, the masks of its queries stay in the cache; a GPU wants much work at a time.
_TILE_ON_CPU, _TILE_ON_GPU = (64, 128), (256, 2048)


class Canvas:
    """Collects the windows of an image and decides each pixel as soon as it has all of its windows.

    Scores of a pixel are the mean over its windows, resized bilinearly to the size of the result. They are computed
    for one tile of the result after the other, so that a few tiles are all the memory that pixels need.

    Args:
        rows: the windows' rows, from top to bottom; they end where the image ends.
        columns: the windows' columns, from left to right, likewise.
        size: height and width of the result.
        keep_scores: keep the scores as well.
        eps: see `Window.scores`.
        device: where everything is summed.
    """

    def __init__(
        self,
        rows: Sequence[range],
        columns: Sequence[range],
        size: Size,
        *,
        keep_scores: bool,
        eps: float,
        device: torch.device,
    ) -> None:
        self.labels = torch.empty(size, dtype=torch.uint8, device=device)
        self.scores: Tensor | None = None
        self._rows, self._columns = rows, columns
        self._size, self._seen = size, (rows[-1].stop, columns[-1].stop)
        self._keep_scores, self._eps, self._device = keep_scores, eps, device
        self._windows: list[Window] = []
        self._added = 0
        self._decided = 0

    def add(self, window: Window) -> None:
        """Take the next window; they come row by row, from left to right."""
        window.probabilities, window.masks = window.probabilities.to(self._device), window.masks.to(self._device)
        self._windows.append(window)
        self._added += 1
        if self._added % len(self._columns) == 0:
            done = self._added // len(self._columns)
            self._decide(self._rows[done].start if done < len(self._rows) else self._seen[0])

    def _decide(self, complete: int) -> None:
        """Decide the tiles that need none but the image's first `complete` rows, and forget windows no tile needs."""
        height, width = _TILE_ON_CPU if self._device.type == "cpu" else _TILE_ON_GPU
        for rows in _tiles(self._decided, self._size[0], height):
            needed = source_span(self._seen[0], self._size[0], rows)
            if needed.stop > complete:
                self._windows = [window for window in self._windows if window.rows.stop > needed.start]
                return
            for columns in _tiles(0, self._size[1], width):
                self._set(rows, columns, self._resized(rows, columns))
            self._decided = rows.stop
        self._windows = []

    def _resized(self, rows: range, columns: range) -> Tensor:
        """Scores (C, rows, columns) of a part of the result."""
        if self._seen == self._size:
            return self._averaged(rows, columns)
        down = source_span(self._seen[0], self._size[0], rows)
        across = source_span(self._seen[1], self._size[1], columns)
        return resize_part(self._averaged(down, across), self._seen, self._size, rows, columns)

    def _averaged(self, rows: range, columns: range) -> Tensor:
        """Scores (C, rows, columns) of a part of the image, the mean over the windows that see a pixel."""
        parts = []
        for window in self._windows:
            down, across = intersect(rows, window.rows), intersect(columns, window.columns)
            if down and across:
                parts.append((down, across, window.scores(down, across, self._eps)))
        if len(parts) == 1:
            return parts[0][2]
        total = parts[0][2].new_zeros((len(parts[0][2]), len(rows), len(columns)))
        count = total.new_zeros(total.shape[1:])
        for down, across, scores in parts:
            place = (
                slice(down.start - rows.start, down.stop - rows.start),
                slice(across.start - columns.start, across.stop - columns.start),
            )
            total[(..., *place)] += scores
            count[place] += 1
        return total / count

    def _set(self, rows: range, columns: range, scores: Tensor) -> None:
        place = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        self.labels[place] = most_likely(scores)
        if self._keep_scores:
            if self.scores is None:
                self.scores = scores.new_empty((len(scores), *self._size))
            self.scores[(..., *place)] = scores


def most_likely(scores: Tensor) -> Tensor:
    """The class with the largest of the (C, H, W) scores, (H, W) uint8; INVALID where that is not finite."""
    best, labels = scores.max(dim=0)  # nan wins every comparison, so `best` shows it
    return labels.to(torch.uint8).masked_fill_(~best.isfinite(), INVALID)


def _tiles(start: int, stop: int, length: int) -> Iterator[range]:
    return (range(first, min(first + length, stop)) for first in range(start, stop, length))
