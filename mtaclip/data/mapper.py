"""Turns a record of a dataset into what the model takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from numpy.typing import NDArray

from mtaclip.data.augmentation import (
    PhotometricDistortion,
    RandomHorizontalFlip,
    RandomScaleCrop,
    ResizeWithin,
    ScaleCropTransform,
)
from mtaclip.data.image_files import ImageFile, unusable
from mtaclip.data.labels import read_label_map

_PASSED_ON = ("file_name", "image_id", "sem_seg_file_name", "label_format")
_DEFAULT_FORMAT = "train_ids"  # of records that name no format, as Detectron2's own datasets do


class FileInput(T.AugInput):
    """What augmentations work on: an image that is decoded when one of them needs it, and labels.

    If the first transform is a crop, no more than the rows down to its lower edge are decoded.
    """

    def __init__(self, file: ImageFile, sem_seg: NDArray[np.uint8] | None) -> None:
        """Join an image and its labels (H, W), if there are any."""
        self._file = file
        self._image: NDArray[np.uint8] | None = None
        self.boxes, self.sem_seg = None, sem_seg

    @property
    def image(self) -> NDArray[np.uint8]:
        """The image (H, W, 3) as it is so far."""
        if self._image is None:
            self._image = self._file.top(self._file.height)
        return self._image

    @image.setter
    def image(self, image: NDArray[np.uint8]) -> None:
        self._image = image

    def transform(self, tfm: T.Transform) -> None:
        """Apply a transform to image and labels, in place."""
        if self._image is None and isinstance(tfm, ScaleCropTransform):
            self._image = self._file.top(tfm.corner[0])
        super().transform(tfm)


class SemanticMapper:
    """Reads an image and, for training, its labels; augments them; returns uint8 tensors.

    `H, W` is the size after augmentation. Nothing is normalised or padded here: the model does that, on its device.
    """

    @configurable
    def __init__(
        self, *, is_train: bool, augmentations: Sequence[T.Augmentation | T.Transform], num_classes: int | None = None
    ) -> None:
        """Build from parts; `SemanticMapper(cfg, is_train)` builds from a config.

        Args:
            is_train: read labels and augment them with the image.
            augmentations: applied in order.
            num_classes: number C of classes that labels may hold; None allows what the label format allows.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.num_classes = num_classes

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Read the INPUT keys.

        Raises:
            ValueError: a key has a value that is not supported.
        """
        if cfg.INPUT.FORMAT != "RGB":
            raise ValueError(f"INPUT.FORMAT is '{cfg.INPUT.FORMAT}', but images are always RGB here: set it to 'RGB'.")
        return {
            "is_train": is_train,
            "augmentations": training_augmentations(cfg) if is_train else inference_augmentations(cfg),
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        }

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Load one image.

        Args:
            record: `file_name`, and for training `sem_seg_file_name`; `label_format` is "train_ids" if it is missing.

        Returns:
            dict with `image` uint8 (3, H, W) RGB; `height`, `width` of the file; `file_name`, `image_id`,
            `sem_seg_file_name` and `label_format` as far as the record has them; for training also `sem_seg`
            uint8 (H, W), train ids and 255 = ignored.

        Raises:
            FileNotFoundError: a file does not exist.
            ValueError: a file cannot be used, image and labels differ in size, or a training record has no labels.
        """
        file = ImageFile(record["file_name"])
        sample = {key: record[key] for key in _PASSED_ON if key in record}
        sample["height"], sample["width"] = file.height, file.width
        inputs = FileInput(file, self._read_labels(record, (file.height, file.width)) if self.is_train else None)
        self.augmentations(inputs)
        return sample | to_tensors(inputs.image, inputs.sem_seg)

    def _read_labels(self, record: dict[str, Any], image_size: tuple[int, int]) -> NDArray[np.uint8]:
        path = record.get("sem_seg_file_name")
        if path is None:
            raise ValueError(
                f"image {record['file_name']} has no labels (its record has no 'sem_seg_file_name'): "
                "take its dataset out of DATASETS.TRAIN."
            )
        labels = read_label_map(path, record.get("label_format", _DEFAULT_FORMAT), self.num_classes)
        if labels.shape != image_size:
            raise unusable(
                path,
                f"image {record['file_name']} is {image_size[0]} x {image_size[1]} (height x width) but its label map "
                f"{path} is {labels.shape[0]} x {labels.shape[1]}: they must be of one size.",
            )
        return labels


def to_tensors(image: NDArray[np.uint8], sem_seg: NDArray[np.uint8] | None) -> dict[str, torch.Tensor]:
    """Copy an image (H, W, 3) to `image` uint8 (3, H, W), and labels, if there are any, to `sem_seg` uint8 (H, W)."""
    tensors = {"image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))}
    if sem_seg is not None:
        tensors["sem_seg"] = torch.from_numpy(np.ascontiguousarray(sem_seg))
    return tensors


def training_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Random resize, crop, flip and colours, as the INPUT keys say.

    Raises:
        ValueError: a key has a value that is not supported.
    """
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
    if len(sizes) != 1:
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN must hold one size, got {sizes}: INPUT.SCALE_RANGE is what varies the size here."
        )
    _check_limits("TRAIN", sizes[0], cfg.INPUT.MAX_SIZE_TRAIN)
    crop_size = _crop_size(cfg) if cfg.INPUT.CROP.ENABLED else None
    max_share = cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA
    augmentations: list[T.Augmentation] = [
        RandomScaleCrop(tuple(cfg.INPUT.SCALE_RANGE), sizes[0], cfg.INPUT.MAX_SIZE_TRAIN, crop_size, max_share)
    ]
    if cfg.INPUT.RANDOM_FLIP == "horizontal":
        augmentations.append(RandomHorizontalFlip(prob=0.5))
    elif cfg.INPUT.RANDOM_FLIP != "none":
        raise ValueError(f"INPUT.RANDOM_FLIP must be 'horizontal' or 'none', got '{cfg.INPUT.RANDOM_FLIP}'.")
    if cfg.INPUT.COLOR_AUG:
        augmentations.append(PhotometricDistortion())
    return augmentations


def inference_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """Resize to within INPUT.MIN_SIZE_TEST (shorter edge) and INPUT.MAX_SIZE_TEST (longer edge).

    As everywhere in Detectron2, INPUT.MIN_SIZE_TEST 0 keeps the original size. So does TEST.AUG.ENABLED: test-time
    augmentation resizes by itself.

    Raises:
        ValueError: a limit is negative, or the longer edge's is zero.
    """
    if cfg.INPUT.MIN_SIZE_TEST == 0 or cfg.TEST.AUG.ENABLED:
        return []
    _check_limits("TEST", cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    return [ResizeWithin(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)]


def _check_limits(phase: str, short_limit: int, long_limit: int) -> None:
    if min(short_limit, long_limit) < 1:
        raise ValueError(
            f"INPUT.MIN_SIZE_{phase} and INPUT.MAX_SIZE_{phase} must be positive sizes in pixels, "
            f"got {short_limit} and {long_limit}."
        )


def _crop_size(cfg: CfgNode) -> tuple[int, int]:
    if cfg.INPUT.CROP.TYPE != "absolute":
        raise ValueError(
            f"INPUT.CROP.TYPE is '{cfg.INPUT.CROP.TYPE}', but INPUT.CROP.SIZE is (height, width) in pixels here: "
            "set it to 'absolute'."
        )
    height, width = (int(size) for size in cfg.INPUT.CROP.SIZE)
    if min(height, width) < 1:
        raise ValueError(f"INPUT.CROP.SIZE must be (height, width) in pixels, got {tuple(cfg.INPUT.CROP.SIZE)}.")
    return height, width
