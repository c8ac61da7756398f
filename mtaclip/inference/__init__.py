"""From images to label maps."""

from mtaclip.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
