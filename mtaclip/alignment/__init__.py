"""What ties mask queries to prompted class texts."""

from mtaclip.alignment.collection import AlignedMasks, collect
from mtaclip.alignment.explain import Alignment, Segment, explain, explain_with_truth, explainable
from mtaclip.alignment.separation import margin, project, silhouette
from mtaclip.alignment.words import Word, nearest_words

__all__ = [
    "AlignedMasks",
    "Alignment",
    "Segment",
    "Word",
    "collect",
    "explain",
    "explain_with_truth",
    "explainable",
    "margin",
    "nearest_words",
    "project",
    "silhouette",
]
