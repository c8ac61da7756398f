"""A folder of predicted label maps, PNGs in the format of a benchmark.

A folder belongs to one dataset. `predictions.json` in it says what the label maps were computed with; those of other
weights, settings or images are replaced. A label map is written under a hidden name first, so that it is complete or
absent, and its checksums are compared when it is read. Shapes: `C` classes, `H, W` the original size of an image.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from numpy.typing import NDArray
from PIL import Image

from mtaclip.data.labels import IGNORE_LABEL, label_table, read_label_map
from mtaclip.evaluation.fingerprint import digest_of_images
from mtaclip.files import not_written, remove_partial_files, replace_file

logger = logging.getLogger(__name__)

_MANIFEST = "predictions.json"
_DESCRIPTIONS = {
    "cityscapes_label_ids": "label ids, ready for the Cityscapes benchmark's server",
    "ade20k": "classes counted from 1, as the SceneParse150 benchmark's server takes them",
    "train_ids": "train ids",
}


class PredictionFolder:
    """Label maps of one dataset, `<stem of the image>.png`.

    Their format is the entry `prediction_format` of the dataset's metadata, one of
    `mtaclip.data.labels.LABEL_FORMATS`; "train_ids" if there is none.
    """

    def __init__(self, folder: str | Path, dataset_name: str, records: Sequence[dict[str, Any]]) -> None:
        """Nothing is read or written yet.

        Args:
            folder: of this dataset alone.
            dataset_name: registered dataset with `stuff_classes` in its metadata.
            records: its images, dicts with `file_name`.

        Raises:
            ValueError: two images have one stem, or the format is unknown.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self.folder = Path(folder)
        self.dataset_name = dataset_name
        self.num_classes = len(metadata.stuff_classes)
        self.format: str = metadata.get("prediction_format", "train_ids")
        self._stored_values = _stored_values(self.format, self.num_classes)
        self._files = _files(self.folder, dataset_name, records)
        self._intact: set[Path] = set()

    def prepare(self, fingerprint: dict[str, str] | None) -> None:
        """Create the folder and remove what does not belong to this evaluation; called by all processes.

        Args:
            fingerprint: what the labels depend on, see `mtaclip.evaluation.fingerprint`; other processes than the main
                one may give None.

        Raises:
            OSError: the file system refuses a change.
        """
        problem = None
        if comm.is_main_process():
            try:
                self._prepare(self._manifest(fingerprint or {}))
            except OSError as error:
                problem = self._sentence(self.folder, error)
        problem = comm.all_gather(problem)[0]
        if problem is not None:
            raise OSError(problem)

    def read(self, file_name: str, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        """Return the label map of an image if it is there and intact.

        Args:
            file_name: of the image.
            size: height and width that the label map must have.

        Returns:
            Train ids (H, W), uint8.
        """
        file = self._files[file_name]
        if not file.is_file():
            return None
        try:
            labels = read_label_map(file, self.format, self.num_classes)
            with Image.open(file) as image:
                image.verify()
        except (OSError, SyntaxError, ValueError) as error:
            logger.warning("%s: computed anew, since it is damaged (%s).", file, error)
            return None
        if labels.shape != size or (labels == IGNORE_LABEL).any():
            logger.warning("%s: computed anew, since it is no prediction for %s.", file, file_name)
            return None
        self._intact.add(file)
        return labels

    def write(self, file_name: str, labels: NDArray[np.uint8]) -> None:
        """Write the label map of an image, unless `read` has returned it.

        Args:
            file_name: of the image.
            labels: train ids (H, W), uint8.

        Raises:
            ValueError: a label is no class.
            OSError: the file system refuses the file.
        """
        file = self._files[file_name]
        if file in self._intact:
            return
        if labels.max(initial=0) >= self.num_classes:
            raise ValueError(
                f"{file_name}: the model predicts class {labels.max()}, but dataset '{self.dataset_name}' has "
                f"{self.num_classes} classes."
            )
        encoded = cv2.imencode(".png", cv2.LUT(labels, self._stored_values))[1]
        try:
            replace_file(file, encoded.tobytes())
        except OSError as error:
            raise OSError(self._sentence(file, error)) from error

    def describe(self) -> str:
        """Number, place and format of the label maps that are there, in words."""
        count = len(self._present())
        return f"{count} of {len(self._files)} predictions are in {self.folder} as {_DESCRIPTIONS[self.format]}"

    def _manifest(self, fingerprint: dict[str, str]) -> dict[str, str]:
        images = digest_of_images(self._files)
        return {"dataset": self.dataset_name, "images": images, "format": self.format, **fingerprint}

    def _prepare(self, manifest: dict[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(self.folder)
        present, file = self._present(), self.folder / _MANIFEST
        stored = _read_manifest(file)
        if stored != manifest:
            if present:
                logger.warning(
                    "%s: %d predictions %s are removed; all are computed anew.",
                    self.folder,
                    len(present),
                    _origin(stored, manifest),
                )
            file.unlink(missing_ok=True)  # first, so that none of the old ones is ever taken for a new one
            for old in present:
                old.unlink(missing_ok=True)
            replace_file(file, json.dumps(manifest, indent=1).encode())
        elif present:
            logger.info(
                "%s: %d of %d predictions are there and are not computed again.",
                self.folder,
                len(present),
                len(self._files),
            )

    def _present(self) -> list[Path]:
        return [file for file in self._files.values() if file.is_file()]

    @staticmethod
    def _sentence(path: Path, error: OSError) -> str:
        return (
            f"TEST.SAVE_PREDICTIONS: {not_written(path, error)}; remove the cause and run the same command again (a "
            "training with --resume): it goes on where it stopped."
        )


def _stored_values(label_format: str, num_classes: int) -> NDArray[np.uint8]:
    """Look-up table (256,) from train ids to the values of a format."""
    train_ids = label_table(label_format, num_classes)
    values = np.zeros(256, np.uint8)
    for train_id in range(num_classes):
        values[train_id] = np.flatnonzero(train_ids == train_id)[0]
    return values


def _files(folder: Path, dataset_name: str, records: Sequence[dict[str, Any]]) -> dict[str, Path]:
    """File of every image."""
    images: dict[str, str] = {}
    for record in records:
        name = record["file_name"]
        stem = Path(name).stem
        if images.setdefault(stem, name) != name:
            raise ValueError(
                f"TEST.SAVE_PREDICTIONS: dataset '{dataset_name}' has two images for one file {stem}.png, "
                f"{images[stem]} and {name}: rename one of them."
            )
    return {name: folder / f"{stem}.png" for stem, name in images.items()}


def _read_manifest(file: Path) -> dict[str, str] | None:
    """Its content; None if it is missing or damaged."""
    try:
        content = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _origin(stored: dict[str, str] | None, manifest: dict[str, str]) -> str:
    """In words, what label maps that are not this evaluation's stem from."""
    if stored is None:
        return f"of unknown origin ({_MANIFEST} is missing or damaged)"
    return f"of other {' and '.join(key for key, value in manifest.items() if stored.get(key) != value)}"
