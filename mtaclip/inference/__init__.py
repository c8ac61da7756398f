"""From images to label maps, and to what ties them to class texts."""

from mtaclip.inference.alignment import Alignment, explain
from mtaclip.inference.predictor import Prediction, Predictor

__all__ = ["Alignment", "Prediction", "Predictor", "explain"]
