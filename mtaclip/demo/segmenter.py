"""A predictor as the demo calls it."""

import numpy as np
from numpy.typing import NDArray

from mtaclip.inference.confidence import confidence
from mtaclip.predictor import Predictor
from mtaclip.visualization import Segmented


class Segmenter:
    """Turns images into what is drawn of them.

    Args:
        predictor: the model.
        with_confidence: compute the confidence as well, for which all class scores are kept for a moment.
    """

    def __init__(self, predictor: Predictor, *, with_confidence: bool) -> None:
        self._predictor = predictor
        self._with_confidence = with_confidence

    def __call__(self, image: NDArray[np.uint8]) -> Segmented:
        """Segment one image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Raises:
            ValueError: the model's scores are not finite, or the confidence is not defined for them.
        """
        prediction = self._predictor(image, scores=self._with_confidence)
        return Segmented(image, prediction.labels, None if prediction.scores is None else confidence(prediction.scores))
