"""Cityscapes and ADE20K as Detectron2 datasets, read from the folders they are distributed in.

Registered on import: `cityscapes_sem_seg_{train,val,test}` and `ade20k_150_sem_seg_{train,val}`. Files are looked for
when a dataset is first used, in the folder that the environment variable DETECTRON2_DATASETS names.
"""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cityscapesscripts.helpers.labels import labels as CITYSCAPES_LABELS
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from mtaclip.data.labels import IGNORE_LABEL
from mtaclip.data.palette import distinct_colours
from mtaclip.data.vocabulary import load_vocabulary

Record = dict[str, Any]

ROOT_VARIABLE = "DETECTRON2_DATASETS"
DEFAULT_ROOT = "datasets"
EVALUATOR_TYPE = "mtaclip_sem_seg"

_IMAGE_SUFFIX = "_leftImg8bit.png"
# The original ids come first; train ids, which some people have generated, are as good.
_CITYSCAPES_LABELS = (
    ("_gtFine_labelIds.png", "cityscapes_label_ids"),
    ("_gtFine_labelTrainIds.png", "train_ids"),
)
_CITYSCAPES_SOURCE = "https://www.cityscapes-dataset.com"
_ADE20K_SOURCE = "https://sceneparsing.csail.mit.edu"
_CITYSCAPES_NAMES = {split: f"cityscapes_sem_seg_{split}" for split in ("train", "val", "test")}
_ADE20K_NAMES = {split: f"ade20k_150_sem_seg_{split}" for split in ("train", "val")}
KNOWN_DATASETS = (*_CITYSCAPES_NAMES.values(), *_ADE20K_NAMES.values())
_ADE20K_FOLDERS = {"train": "training", "val": "validation"}
_ADE20K_CLASSES = 150


def get_records(names: Sequence[str]) -> list[Record]:
    """List the images of one or more datasets.

    Args:
        names: registered names, as in DATASETS.TRAIN or DATASETS.TEST.

    Returns:
        One dict per image, in the order of the names, sorted by file within each: `file_name`, `image_id` (the stem of
        the file) and, where there are labels, `sem_seg_file_name` and `label_format`
        (see `mtaclip.data.labels.LABEL_FORMATS`).

    Raises:
        ValueError: `names` is empty, a name is not registered, or a dataset has no image.
        FileNotFoundError: files of a dataset are missing.
    """
    if isinstance(names, str) or not names:
        raise ValueError(f"DATASETS needs a list of one or more dataset names, got {names!r}: for example {_known()}.")
    found = []
    for name in names:
        check_registered(name)
        records = DatasetCatalog.get(name)
        if not records:
            raise ValueError(f"dataset '{name}' is empty: it lists no image; check the function that registered it.")
        found += records
    return found


def check_registered(name: str, key: str = "DATASETS") -> None:
    """Raise if no dataset has a name.

    Args:
        name: as in DATASETS.TRAIN or DATASETS.TEST.
        key: where the name stands, for the message.

    Raises:
        ValueError: the name is not registered.
    """
    if name not in DatasetCatalog:
        raise ValueError(
            f"{key}: dataset '{name}' is not registered: use one of {_known()}, folder_train and folder_val "
            "of DATASETS.FOLDER.ROOT, or register your own in DatasetCatalog."
        )


def classes_of(datasets: Sequence[str]) -> tuple[str, ...]:
    """Names of the C classes of the first of some registered datasets that has any; () if none has."""
    found = (MetadataCatalog.get(name).get("stuff_classes") for name in datasets)
    return next((tuple(names) for names in found if names), ())


def tested_classes(cfg: CfgNode) -> tuple[str, ...]:
    """Names of the C classes of the test data; () where TEST.VOCABULARY names others than the trained ones."""
    return () if cfg.TEST.VOCABULARY else classes_of(cfg.DATASETS.TEST)


def load_cityscapes(split: str) -> list[Record]:
    """List the images of Cityscapes, with their fine annotations except for the test split.

    Args:
        split: "train", "val" or "test".

    Returns:
        One dict per image, see `get_records`.

    Raises:
        FileNotFoundError: a folder is missing or empty, or an image has no label file.
    """
    root = _root() / "cityscapes"
    images = root / "leftImg8bit" / split
    labels = None if split == "test" else root / "gtFine" / split
    files = sorted(images.glob(f"*/*{_IMAGE_SUFFIX}"))
    if not files or (labels is not None and not labels.is_dir()):
        wanted = [images / "<city>" / f"*{_IMAGE_SUFFIX}"]
        if labels is not None:
            wanted.append(labels / "<city>" / f"*{_CITYSCAPES_LABELS[0][0]}")
        raise _missing("Cityscapes", split, wanted, _CITYSCAPES_SOURCE)
    records = []
    for file in files:
        record = {"file_name": str(file), "image_id": file.stem}
        if labels is not None:
            record |= _cityscapes_label(file, labels)
        records.append(record)
    return records


def _cityscapes_label(image: Path, labels: Path) -> Record:
    start = image.name.removesuffix(_IMAGE_SUFFIX)
    wanted = [labels / image.parent.name / f"{start}{suffix}" for suffix, _ in _CITYSCAPES_LABELS]
    for file, (_, label_format) in zip(wanted, _CITYSCAPES_LABELS, strict=True):
        if file.is_file():
            return {"sem_seg_file_name": str(file), "label_format": label_format}
    raise unlabelled(image, wanted)


def load_ade20k(split: str) -> list[Record]:
    """List the images of ADE20K's scene-parsing challenge (150 classes).

    Args:
        split: "train" or "val".

    Returns:
        One dict per image, see `get_records`.

    Raises:
        FileNotFoundError: a folder is missing or empty, or an image has no annotation.
    """
    root = _root() / "ADEChallengeData2016"
    images = root / "images" / _ADE20K_FOLDERS[split]
    annotations = root / "annotations" / _ADE20K_FOLDERS[split]
    files = sorted(images.glob("*.jpg"))
    if not files or not annotations.is_dir():
        raise _missing("ADE20K", split, [images / "*.jpg", annotations / "*.png"], _ADE20K_SOURCE)
    records = []
    for file in files:
        annotation = annotations / f"{file.stem}.png"
        if not annotation.is_file():
            raise unlabelled(file, [annotation])
        records.append(
            {
                "file_name": str(file),
                "image_id": file.stem,
                "sem_seg_file_name": str(annotation),
                "label_format": "ade20k",
            }
        )
    return records


def _root() -> Path:
    return Path(os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT)).expanduser()


def _missing(title: str, split: str, wanted: list[Path], source: str) -> FileNotFoundError:
    setting = os.environ.get(ROOT_VARIABLE)
    state = f"'{setting}'" if setting is not None else f"not set, so '{DEFAULT_ROOT}' is used"
    return FileNotFoundError(
        f"{title} ({split}) was not found: looked for {' and '.join(map(str, wanted))} "
        f"(environment variable {ROOT_VARIABLE} is {state}); get the data at {source} and arrange it as "
        "datasets/README.md says, or point the variable at the folder that holds it."
    )


def unlabelled(image: Path, wanted: list[Path]) -> FileNotFoundError:
    """The error that an image has no label map; `wanted` are the files it was looked for in."""
    return FileNotFoundError(
        f"image {image} has no label file: looked for {' and '.join(map(str, wanted))}; restore it or remove the image."
    )


def _known() -> str:
    return ", ".join(KNOWN_DATASETS)


def _register_cityscapes() -> None:
    evaluated = sorted(
        (label for label in CITYSCAPES_LABELS if not label.ignoreInEval), key=lambda label: label.trainId
    )
    for split, name in _CITYSCAPES_NAMES.items():
        DatasetCatalog.register(name, partial(load_cityscapes, split))
        MetadataCatalog.get(name).set(
            stuff_classes=[label.name for label in evaluated],
            stuff_colors=[label.color for label in evaluated],
            stuff_categories=[label.category for label in evaluated],
            ignore_label=IGNORE_LABEL,
            evaluator_type=EVALUATOR_TYPE,
            vocabulary="cityscapes",
            prediction_format="cityscapes_label_ids",
        )


def _register_ade20k() -> None:
    for split, name in _ADE20K_NAMES.items():
        DatasetCatalog.register(name, partial(load_ade20k, split))
        MetadataCatalog.get(name).set(
            stuff_classes=load_vocabulary("ade20k", _ADE20K_CLASSES),
            stuff_colors=list(distinct_colours(_ADE20K_CLASSES)),
            ignore_label=IGNORE_LABEL,
            evaluator_type=EVALUATOR_TYPE,
            vocabulary="ade20k",
            prediction_format="ade20k",
        )


_register_cityscapes()
_register_ade20k()
