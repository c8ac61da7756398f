"""Matching and training losses."""

from mtaclip.losses.criterion import Criterion

__all__ = ["Criterion"]
