"""Bilinear resizing of a part of a map, as two small matrix products."""

import math

import torch
from torch import Tensor

Size = tuple[int, int]


def source_span(size: int, target: int, span: range) -> range:
    """The samples that a part of a resized axis is made of.

    Args:
        size: samples of the axis.
        target: samples that it is resized to.
        span: some of those, one after the other, at least one.
    """
    first, last = (_position(size, target, index) for index in (span.start, span.stop - 1))
    return range(math.floor(first), min(math.floor(last) + 2, size))


def crop_source(maps: Tensor, size: Size, rows: range, columns: range) -> Tensor:
    """The part of (..., h, w) maps that `resize_part` needs, as float32."""
    height, width = maps.shape[-2:]
    down, across = source_span(height, size[0], rows), source_span(width, size[1], columns)
    return maps[..., down.start : down.stop, across.start : across.stop].float()


def resize_part(source: Tensor, whole: Size, size: Size, rows: range, columns: range) -> Tensor:
    """A part of resized maps, equal to the same part of what `F.interpolate` makes of the whole maps.

    Bilinear, corners not aligned.

    Args:
        source: what `source_span` names of maps of size `whole`, (..., h, w) float32.
        whole: height and width of the maps.
        size: height and width that they are resized to.
        rows: the part's, among `size`.
        columns: the part's, among `size`.

    Returns:
        (..., rows, columns) float32.
    """
    down = _matrix(whole[0], size[0], rows, source.device)
    across = _matrix(whole[1], size[1], columns, source.device)
    return down @ (source @ across.mT)


def _matrix(size: int, target: int, span: range, device: torch.device) -> Tensor:
    """Weights of the samples of `source_span` (columns) in those of `span` (rows)."""
    source = source_span(size, target, span)
    wanted = torch.arange(span.start, span.stop, device=device, dtype=torch.float64)
    position = ((wanted + 0.5) * (size / target) - 0.5).clamp_(0, size - 1)
    given = torch.arange(source.start, source.stop, device=device)
    return (1 - (position[:, None] - given).abs_()).clamp_(min=0).float()


def _position(size: int, target: int, index: int) -> float:
    return min(max((index + 0.5) * (size / target) - 0.5, 0.0), size - 1)
