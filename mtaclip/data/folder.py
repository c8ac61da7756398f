"""A dataset of the user's own, described by the config keys DATASETS.FOLDER: folders of images and of label maps."""

from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from mtaclip.data.datasets import EVALUATOR_TYPE, Record, unlabelled
from mtaclip.data.labels import IGNORE_LABEL, label_table
from mtaclip.data.palette import distinct_colours
from mtaclip.data.vocabulary import ClassTexts, read_classes, split_texts
from mtaclip.files import IMAGE_SUFFIXES, visible_files

FOLDER_DATASETS = {f"folder_{split}": split for split in ("train", "val", "test")}  # name: split
FOLDER_VOCABULARY = "folder"  # MODEL.MTACLIP.TEXT.VOCABULARY that stands for DATASETS.FOLDER.NAMES


@dataclass(frozen=True)
class LabelledFolder:
    """Images and label maps that belong together by their sub-folders and names.

    Attributes:
        images: folder of the images; those in it and below it count.
        labels: folder of the label maps.
        label_suffix: what a label map's name has after the stem of its image.
        label_format: one of `mtaclip.data.labels.LABEL_FORMATS`.
    """

    images: Path
    labels: Path
    label_suffix: str = ".png"
    label_format: str = "train_ids"

    def records(self) -> list[Record]:
        """One dict per image, sorted by file, as `mtaclip.data.datasets.get_records`; without labels where it has none.

        Raises:
            FileNotFoundError: there is no image.
        """
        files = [file for file in visible_files(self.images) if file.suffix.lower() in IMAGE_SUFFIXES]
        images = [file for file in files if not self._is_label(file)]
        if files and not images:
            raise FileNotFoundError(
                f"image folder {self.images} is the folder of the label maps, too, and all its {len(files)} images end "
                f"in '{self.label_suffix}', as label maps do: give label maps another ending or folder (in a config, "
                "DATASETS.FOLDER.LABEL_SUFFIX and LABELS)."
            )
        if not images:
            state = "holds no image" if self.images.is_dir() else "does not exist"
            raise FileNotFoundError(
                f"image folder {self.images} {state} ({' '.join(sorted(IMAGE_SUFFIXES))}): put images there, or "
                "name the folder that has them (in a config, DATASETS.FOLDER.ROOT and IMAGES)."
            )
        return [self._record(file) for file in images]

    def label_file(self, image: Path) -> Path:
        """Where the label map of an image is looked for."""
        return self.labels / image.relative_to(self.images).parent / f"{image.stem}{self.label_suffix}"

    def lonely_labels(self, records: list[Record]) -> list[Path]:
        """Label maps that belong to none of the images of `records`."""
        used = {record.get("sem_seg_file_name") for record in records}
        return [file for file in visible_files(self.labels) if self._is_label(file) and str(file) not in used]

    def unlabelled(self, records: list[Record]) -> list[Path]:
        """Images of `records` without label map."""
        return [Path(record["file_name"]) for record in records if "sem_seg_file_name" not in record]

    def shared_labels(self, records: list[Record]) -> dict[str, list[str]]:
        """Label maps that belong to several images of `records`, whose stems are the same, with these images."""
        images = defaultdict(list)
        for record in records:
            if "sem_seg_file_name" in record:
                images[record["sem_seg_file_name"]].append(record["file_name"])
        return {label: files for label, files in images.items() if len(files) > 1}

    def _record(self, file: Path) -> Record:
        record = {"file_name": str(file), "image_id": file.stem}
        label = self.label_file(file)
        if label.is_file():
            record |= {"sem_seg_file_name": str(label), "label_format": self.label_format}
        return record

    def _is_label(self, file: Path) -> bool:
        return file.name.endswith(self.label_suffix) and file.is_relative_to(self.labels)


def labelled_folder(cfg: CfgNode, split: str) -> LabelledFolder:
    """The folders of a split, as DATASETS.FOLDER says; they need not exist."""
    keys = cfg.DATASETS.FOLDER
    root = _root(cfg)
    images, labels = (root / pattern.replace("{split}", split) for pattern in (keys.IMAGES, keys.LABELS))
    return LabelledFolder(images, labels, keys.LABEL_SUFFIX, keys.LABEL_FORMAT)


def _root(cfg: CfgNode) -> Path:
    return Path(cfg.DATASETS.FOLDER.ROOT).expanduser()


def load_folder(folder: LabelledFolder, split: str) -> list[Record]:
    """List the images of a split with their labels; the test split may have none.

    Args:
        folder: of the split.
        split: "train", "val" or "test".

    Returns:
        One dict per image, see `mtaclip.data.datasets.get_records`.

    Raises:
        FileNotFoundError: there is no image, or an image has no label map.
        ValueError: two images have the same label map.
    """
    records = folder.records()
    if split == "test" and not folder.labels.is_dir():
        return records
    for image in folder.unlabelled(records):
        raise unlabelled(image, [folder.label_file(image)])
    for label, images in folder.shared_labels(records).items():
        raise ValueError(
            f"label map {label} belongs to {' and '.join(images)}: give each image a stem and a label map of its own."
        )
    return records


def use_folder(cfg: CfgNode) -> None:
    """Register the datasets of DATASETS.FOLDER, if there are any, in place of those of an earlier config.

    Class names are read into DATASETS.FOLDER.NAMES, and MODEL.SEM_SEG_HEAD.NUM_CLASSES becomes their number where
    DATASETS.TRAIN or DATASETS.TEST names such a dataset. The folders are looked into when a dataset is first used.

    Args:
        cfg: a config that is not frozen; changed in place.

    Raises:
        FileNotFoundError, OSError: the class-name file cannot be read.
        ValueError: a dataset is named and DATASETS.FOLDER.ROOT is empty, or class names or label format are wrong.
    """
    keys = cfg.DATASETS.FOLDER
    used = [name for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST) if name in FOLDER_DATASETS]
    if not keys.ROOT:
        if used:
            raise ValueError(
                f"DATASETS.FOLDER.ROOT is empty, but dataset '{used[0]}' is asked for: set the key to the folder of "
                "your images and labels, as docs/custom_dataset.md says."
            )
        return
    keys.NAMES = keys.NAMES or tuple("; ".join(texts) for texts in read_classes(_root(cfg) / keys.CLASSES))
    names = [texts[0] for texts in folder_classes(cfg)]
    try:
        label_table(keys.LABEL_FORMAT, len(names))
    except ValueError as error:
        raise ValueError(f"DATASETS.FOLDER.LABEL_FORMAT is '{keys.LABEL_FORMAT}': {error}") from error
    if used:
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(names)
    for name, split in FOLDER_DATASETS.items():
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        DatasetCatalog.register(name, partial(load_folder, labelled_folder(cfg, split), split))
        MetadataCatalog.get(name).set(
            stuff_classes=names,
            stuff_colors=list(distinct_colours(len(names))),
            ignore_label=IGNORE_LABEL,
            evaluator_type=EVALUATOR_TYPE,
            prediction_format=keys.LABEL_FORMAT,
        )


def folder_classes(cfg: CfgNode) -> list[ClassTexts]:
    """The texts of the classes in DATASETS.FOLDER.NAMES; the first of each is its name.

    Raises:
        ValueError: a text is empty or occurs twice, or is no text.
    """
    names = cfg.DATASETS.FOLDER.NAMES
    for name in names:
        if not isinstance(name, str):
            raise ValueError(
                f"DATASETS.FOLDER.NAMES: {name!r} must be a text; in YAML, put numbers, yes and no in quotes."
            )
    return split_texts(names, "DATASETS.FOLDER.NAMES", "name")
