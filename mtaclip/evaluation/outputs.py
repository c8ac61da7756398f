"""Label maps among what a model returns."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtaclip.inference.canvas import INVALID


def predicted_labels(output: dict[str, Any], file_name: str) -> NDArray[np.uint8]:
    """The class of every pixel, (H, W), on the host.

    Args:
        output: of the model for one image, with `labels`.
        file_name: of the image, for the message.

    Raises:
        ValueError: labels are not (H, W) uint8, or scores of a pixel were not finite.
    """
    labels = output["labels"]
    if labels.dim() != 2 or labels.dtype != torch.uint8:
        raise ValueError(
            f"{file_name}: the model's 'labels' are {tuple(labels.shape)} {labels.dtype}, but must be (H, W) "
            "torch.uint8, the class of every pixel."
        )
    labels = labels.cpu().numpy()
    if (labels == INVALID).any():
        raise ValueError(f"{file_name}: the model's scores hold nan or infinite values; check the checkpoint.")
    return labels
