"""One image in, its label map out.

Shapes: `C` classes, `H, W` size of the given image, `h, w` size at which the model sees it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mtaclip.checkpoint import load_weights
from mtaclip.data.labels import read_image
from mtaclip.data.mapper import inference_augmentations
from mtaclip.modeling.build import build_model

ImageLike = str | Path | Image.Image | NDArray[np.uint8] | Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about one image.

    Attributes:
        labels: (H, W) uint8, the class with the largest score at every pixel, 0 .. C-1.
        scores: (C, H, W) float class scores on the model's device; larger is likelier, they need not sum to 1.
    """

    labels: NDArray[np.uint8]
    scores: Tensor


class Predictor:
    """A trained model, ready for single images.

    Images are resized as in evaluation (`INPUT.MIN_SIZE_TEST`, `INPUT.MAX_SIZE_TEST`); the result has the size of the
    image that was given.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """Build the model of a config on `MODEL.DEVICE` and load `MODEL.WEIGHTS` into it.

        Args:
            cfg: a complete config; it is not changed.

        Raises:
            FileNotFoundError: there is no such weight file.
            ValueError: the weights are missing or do not fit the model, or the device is unknown or not there.
        """
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("MODEL.WEIGHTS is empty: an untrained model predicts nothing; name a checkpoint file.")
        _check_device(cfg.MODEL.DEVICE)
        self._model = build_model(cfg)
        load_weights(self._model, cfg.MODEL.WEIGHTS)
        self._model.eval()
        self._augmentations = T.AugmentationList(inference_augmentations(cfg))

    @torch.no_grad()
    def __call__(self, image: ImageLike) -> Prediction:
        """Segment one image.

        Args:
            image: path of an image file, PIL image (taken as it is, whatever orientation EXIF says), (H, W, 3) uint8
                RGB array or (3, H, W) uint8 RGB tensor.

        Raises:
            OSError: the file cannot be read.
            TypeError: the image is of another type.
            ValueError: the image has another shape, data type or more than 8 bits per channel, or the model's scores
                are not finite.
        """
        pixels = _to_array(image)
        height, width = pixels.shape[:2]
        resized = T.AugInput(pixels)
        self._augmentations(resized)
        channels_first = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        scores = self._model([{"image": channels_first, "height": height, "width": width}])[0]["sem_seg"]
        best, labels = scores.max(dim=0)  # nan wins every comparison, so `best` shows it
        if not torch.isfinite(best).all():
            raise ValueError("the model's scores hold nan or infinite values; check the checkpoint of MODEL.WEIGHTS.")
        return Prediction(labels.to(torch.uint8).cpu().numpy(), scores)


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE: '{name}' is no device of PyTorch; use 'cuda' or 'cpu'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"MODEL.DEVICE is '{name}', but PyTorch finds no GPU here; set MODEL.DEVICE to cpu.")


def _to_array(image: ImageLike) -> NDArray[np.uint8]:
    """Any accepted image as (H, W, 3) uint8 RGB."""
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"a PIL image must be of 8 bits per channel, not of mode {image.mode}.")
        return np.array(image.convert("RGB"))
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
            raise ValueError(f"an image tensor must be (3, H, W) uint8 RGB, not {tuple(image.shape)} {image.dtype}.")
        return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an image array must be (H, W, 3) uint8 RGB, not {image.shape} {image.dtype}.")
        return np.ascontiguousarray(image)
    raise TypeError(f"an image must be a path, a PIL image, an array or a tensor, not {type(image).__name__}.")
