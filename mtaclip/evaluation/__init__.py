"""Scoring of semantic segmentation."""

from mtaclip.evaluation.confusion import ConfusionMatrix
from mtaclip.evaluation.scores import semantic_scores
from mtaclip.evaluation.semantic import SemanticEvaluator

__all__ = ["ConfusionMatrix", "SemanticEvaluator", "semantic_scores"]
