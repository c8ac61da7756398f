"""One image in, its label map out.

Shapes: `C` classes, `H, W` size of the given image, `h, w` size at which the model sees it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from mtaclip.checkpoint.deduction import check_sizes
from mtaclip.checkpoint.loading import check_complete, compare_classes, load_state, read_checkpoint
from mtaclip.data.datasets import tested_classes
from mtaclip.data.image_files import read_image
from mtaclip.data.mapper import inference_augmentations
from mtaclip.evaluation.comparison import read_scores
from mtaclip.evaluation.fingerprint import digest_of_weights
from mtaclip.inference.augmentation import build_inference
from mtaclip.inference.canvas import INVALID
from mtaclip.merging import default_config, merge_options, merge_text
from mtaclip.modeling.build import build_model
from mtaclip.modeling.performance import autocast, speed_up
from mtaclip.problems import first_line, is_out_of_memory
from mtaclip.publishing.card import model_card
from mtaclip.publishing.files import CARD, CLASSES
from mtaclip.publishing.folder import (
    check_target,
    classes_file,
    find_published,
    published_palette,
    read_folder,
    write_folder,
)
from mtaclip.publishing.hub import fetch
from mtaclip.publishing.portable import config_files
from mtaclip.visualization.palette import Palette

# What libraries raise for values of a config that make no sense.
_NONSENSE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)

ImageLike = str | Path | Image.Image | NDArray[np.uint8] | Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model says about one image.

    Attributes:
        labels: (H, W) uint8, the class with the largest score at every pixel, 0 .. C-1.
        scores: (C, H, W) float32 class scores on the model's device, where they were asked for; larger is likelier,
            they need not sum to 1.
    """

    labels: NDArray[np.uint8]
    scores: Tensor | None = None


class Predictor:
    """A trained model, ready for single images, from any number of threads.

    Images are treated as in evaluation: resized to INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST, seen whole or through
    windows or in several sizes as TEST says, under autocast if SOLVER.AMP is on. The result has the size of the image
    that was given.
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
        check_complete(cfg)
        checkpoint = read_checkpoint(cfg.MODEL.WEIGHTS, allow_pickle=cfg.MODEL.WEIGHTS_ALLOW_PICKLE)
        self._build(cfg, checkpoint)
        compare_classes(checkpoint, tested_classes(cfg), cfg.MODEL.WEIGHTS)

    @classmethod
    def from_checkpoint(cls, path: str | Path, device: str | None = None, opts: Sequence[str] = ()) -> "Predictor":
        """Build the model of a checkpoint, which holds the config that it was trained with.

        Args:
            path: a checkpoint that a training of this project wrote.
            device: "cuda", "cpu" or another of PyTorch's; None is MODEL.DEVICE of `opts`, else the first GPU if there
                is one, else the CPU.
            opts: config keys and values in turn, for example ["TEST.SLIDING_WINDOW.ENABLED", "True"].

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no such checkpoint, the device is unknown or not there, or a key is unknown.
        """
        folder = find_published(path)
        if folder is not None:
            raise ValueError(f"{path} is a published model or a part of one: name its folder, {folder}.")
        checkpoint = read_checkpoint(path, allow_pickle=_read_options(opts).MODEL.WEIGHTS_ALLOW_PICKLE)
        if "config" not in checkpoint:
            raise ValueError(
                f"{path} holds no config: build the predictor from one, Predictor(cfg) with MODEL.WEIGHTS set to it."
            )
        cfg = default_config()
        merge_text(cfg, checkpoint["config"], f"{path}: its config cannot be used")
        cfg.MODEL.WEIGHTS = str(path)
        return cls._from(path, cfg, checkpoint, device, opts)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_id: str | Path,
        device: str | None = None,
        opts: Sequence[str] = (),
        *,
        revision: str | None = None,
    ) -> "Predictor":
        """Load a published model; nothing in its folder is executed, and no dataset needs to be there.

        Args:
            folder_or_id: a folder of `save_pretrained`, or the id "name/model" of one on the Hugging Face Hub.
            device: see `from_checkpoint`.
            opts: see `from_checkpoint`.
            revision: branch, tag or commit on the hub.

        Raises:
            FileNotFoundError: there is no such folder, or a file of it is missing.
            OSError: the hub has no such model or cannot be reached.
            ValueError: a file is damaged or does not fit the others, the device is unknown or not there, or a key is
                unknown.
        """
        folder = fetch(folder_or_id, revision)
        cfg = read_folder(folder)
        checkpoint = read_checkpoint(cfg.MODEL.WEIGHTS, allow_pickle=_read_options(opts).MODEL.WEIGHTS_ALLOW_PICKLE)
        return cls._from(folder, cfg, checkpoint, device, opts)

    @classmethod
    def _from(
        cls, source: str | Path, cfg: CfgNode, checkpoint: dict[str, Any], device: str | None, opts: Sequence[str]
    ) -> "Predictor":
        """The predictor of a config and weights that come from others, and of options that the caller chose."""
        cfg.MODEL.WEIGHTS_REINIT = ()  # of the training; and whatever the config says, it is not to allow pickles
        cfg.MODEL.WEIGHTS_ALLOW_PICKLE = False
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        merge_options(cfg, opts, "opts")
        cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
        check_complete(cfg)
        predictor = cls.__new__(cls)
        try:
            check_sizes(cfg, checkpoint["model"])
            predictor._build(cfg, checkpoint)
        except _NONSENSE as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"{source}: its config describes no model that can be built ({first_line(error)})."
            ) from error
        return predictor

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        palette: Palette | None = None,
        license: str = "other",
        scores: Sequence[str | Path] = (),
        overwrite: bool = False,
    ) -> None:
        """Publish the model: a folder for `from_pretrained`, here and on other machines.

        Args:
            folder: new or empty; its name is the model's.
            palette: names and colours of the classes; None takes `palette`.
            license: of the weights, an id of the Hugging Face Hub, for the model card.
            scores: files `scores_<dataset>.json` that an evaluation of these weights wrote, for the model card.
            overwrite: replace a published model.

        Raises:
            ValueError: the folder holds something else, a palette has another number of classes, or there is none.
            OSError: a file cannot be read or written.
        """
        folder = Path(folder).resolve()
        check_target(folder, overwrite=overwrite)
        palette = palette or self.palette
        evaluations = [read_scores(Path(file)) for file in scores]
        num_classes = self._cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        files = config_files(self._cfg)
        card = model_card(folder.name, self._cfg, palette.names, evaluations, license)
        files |= {CLASSES: classes_file(palette, num_classes), CARD: card.encode()}
        write_folder(folder, self._network.state_dict(), files, overwrite=overwrite)

    def _build(self, cfg: CfgNode, checkpoint: dict[str, Any]) -> None:
        _check_device(cfg.MODEL.DEVICE)
        self._palette = published_palette(cfg)
        model = build_model(cfg)
        load_state(model, checkpoint["model"], cfg.MODEL.WEIGHTS)
        speed_up(model, cfg)
        self._network = model
        self._model = build_inference(cfg, model).eval()
        self._augmentations = T.AugmentationList(inference_augmentations(cfg))
        self._cfg = cfg.clone()

    @torch.no_grad()
    def __call__(self, image: ImageLike, *, scores: bool = False) -> Prediction:
        """Segment one image.

        Args:
            image: path of an image file, PIL image (taken as it is, whatever orientation EXIF says), (H, W, 3) uint8
                RGB array or (3, H, W) uint8 RGB tensor.
            scores: give the class scores as well, 4 C H W bytes.

        Raises:
            OSError: the file cannot be read.
            TypeError: the image is of another type.
            ValueError: the image has another shape, data type or more than 8 bits per channel, or the model's scores
                are not finite.
        """
        item = self.prepare(image) | {"scores": scores}
        with self.autocast():
            (result,) = self._model([item])
        labels = result["labels"].cpu().numpy()
        if (labels == INVALID).any():
            raise ValueError("the model's scores hold nan or infinite values; check the checkpoint of MODEL.WEIGHTS.")
        return Prediction(labels, result.get("sem_seg"))

    @property
    def cfg(self) -> CfgNode:
        """The config that the model was built from, a copy."""
        return self._cfg.clone()

    @property
    def model(self) -> nn.Module:
        """The model in eval mode, as it is evaluated."""
        return self._model

    def digest(self) -> str:
        """What `scores_<dataset>.json` says of an evaluation of the same weights."""
        return digest_of_weights(self._network)

    @property
    def palette(self) -> Palette:
        """Names and colours of the model's classes: those it was published with, or those of the first test dataset.

        Raises:
            ValueError: there is no such dataset, or it has another number of classes.
        """
        return self._palette or Palette.from_config(self._cfg)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the C classes; see `palette`."""
        return self.palette.names

    def autocast(self) -> torch.autocast:
        """The context in which the model is evaluated."""
        return autocast(self._cfg)

    def prepare(self, image: ImageLike) -> dict[str, Any]:
        """One image as the model takes it: "image" uint8 (3, h, w) RGB, "height" and "width" of what was given.

        Args:
            image: see `__call__`, which also says what is raised.
        """
        pixels = _to_array(image)
        resized = T.AugInput(pixels)
        self._augmentations(resized)
        channels_first = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return {"image": channels_first, "height": pixels.shape[0], "width": pixels.shape[1]}


def _read_options(opts: Sequence[str]) -> CfgNode:
    """The defaults with the options of a caller, who has named the weights.

    Raises:
        ValueError: an unknown key, a value of the wrong type, or MODEL.WEIGHTS.
    """
    cfg = default_config()
    merge_options(cfg, opts, "opts")
    if cfg.MODEL.WEIGHTS:
        raise ValueError(f"opts: MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS!r}, but this model has its own weights.")
    return cfg


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"MODEL.DEVICE: '{name}' is no device of PyTorch; use 'cuda' or 'cpu'.") from error
    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"MODEL.DEVICE is '{name}', but PyTorch cannot compute there ({first_line(error)}); set it to cpu."
        ) from error


def _to_array(image: ImageLike) -> NDArray[np.uint8]:
    """Any accepted image that is not empty as (H, W, 3) uint8 RGB."""
    pixels = _pixels(image)
    if not pixels.size:
        raise ValueError(f"an image must have pixels, not the size {pixels.shape}.")
    return pixels


def _pixels(image: ImageLike) -> NDArray[np.uint8]:
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
