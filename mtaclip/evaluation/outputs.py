"""Label maps among what a model returns."""

from typing import Any

import numpy as np
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from numpy.typing import NDArray
from torch import Tensor

from mtaclip.inference.canvas import INVALID, most_likely


def predicted_labels(output: dict[str, Any], file_name: str, num_classes: int) -> NDArray[np.uint8]:
    """The class of every pixel, (H, W), on the host.

    Args:
        output: of the model for one image, with `labels`: classes (H, W), uint8; or with `sem_seg`: scores (C, H, W),
            float, of which the largest at a pixel names its class.
        file_name: of the image, for the message.
        num_classes: number C of classes.

    Raises:
        ValueError: labels are not (H, W) uint8, scores have another class count, or those of a pixel are not finite.
    """
    labels = output["labels"] if "labels" in output else _most_likely(output["sem_seg"], file_name, num_classes)
    if labels.dim() != 2 or labels.dtype != torch.uint8:
        raise ValueError(
            f"{file_name}: the model's 'labels' are {tuple(labels.shape)} {labels.dtype}, but must be (H, W) "
            "torch.uint8, the class of every pixel."
        )
    labels = labels.cpu().numpy()
    if (labels == INVALID).any():
        raise ValueError(f"{file_name}: the model's scores hold nan or infinite values; check the checkpoint.")
    return labels


def _most_likely(scores: Tensor, file_name: str, num_classes: int) -> Tensor:
    if scores.dim() != 3 or scores.shape[0] != num_classes:
        raise ValueError(
            f"{file_name}: the model's scores have shape {tuple(scores.shape)}, but the dataset has {num_classes} "
            "classes; set MODEL.SEM_SEG_HEAD.NUM_CLASSES to that number."
        )
    return most_likely(scores)


def training_storage() -> EventStorage | None:
    """Where the training that an evaluation is a part of keeps its scalars and pictures; None outside of one."""
    try:
        return get_event_storage()
    except AssertionError:
        return None
