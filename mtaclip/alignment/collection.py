"""The masks of many images in CLIP's space, each with its true class.

Letters: M masks, C classes, K = C + 1 texts, n contexts, D width of CLIP's embedding space.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtaclip.alignment.explain import explain_with_truth, explainable
from mtaclip.alignment.separation import margin, silhouette
from mtaclip.data.image_files import read_image
from mtaclip.data.labels import read_label_map
from mtaclip.predictor import Predictor

_logger = logging.getLogger("mtaclip.alignment")
_LOG_PERIOD = 50  # images


@dataclass(frozen=True, eq=False)
class AlignedMasks:
    """Mask queries that were matched with a true class, and the texts that they should be close to.

    Attributes:
        embeddings: (M, D) float32, of length 1.
        classes: (M,) int64 train id that each was matched with.
        images: file name of each one's image.
        texts: (n, K, D) float32 mean over the images of the prompted texts as these refined them, of length 1.
        num_images: how many images were looked at.
    """

    embeddings: NDArray[np.float32]
    classes: NDArray[np.int64]
    images: tuple[str, ...]
    texts: NDArray[np.float32]
    num_images: int

    def silhouettes(self) -> NDArray[np.float64]:
        """See `mtaclip.alignment.silhouette`, (M,)."""
        return silhouette(self.embeddings, self.classes)

    def margins(self) -> NDArray[np.float64]:
        """See `mtaclip.alignment.margin`, (M,); the no-object text is one of the others."""
        return margin(self.embeddings, self.classes, self.texts)


def collect(predictor: Predictor, records: Sequence[dict[str, Any]]) -> AlignedMasks:
    """Explain labelled images and keep the mask queries that are matched with a class.

    Args:
        predictor: of a model with a text side that sees images as a whole.
        records: of the images, as `mtaclip.data.datasets.get_records` gives them.

    Raises:
        ValueError: an image has no labels or labels of another size, or there is no image with a class; see also
            `mtaclip.alignment.explain`.
        FileNotFoundError: a file does not exist.
    """
    num_classes = len(explainable(predictor).texts.class_texts) - 1
    embeddings, classes, images, total = [], [], [], 0.0
    for number, record in enumerate(records, start=1):
        alignment, matched = explain_with_truth(predictor, *_read(record, num_classes))
        found = matched < num_classes
        embeddings.append(alignment.mask_embeddings[found])
        classes.append(matched[found])
        images += [Path(record["file_name"]).name] * int(found.sum())
        total = total + alignment.text_embeddings.astype(np.float64)
        if number % _LOG_PERIOD == 0:
            _logger.info("%d of %d images", number, len(records))
    if not images:
        raise ValueError("no image has a labelled pixel, so no mask can be matched with a class.")
    texts = (total / np.linalg.norm(total, axis=-1, keepdims=True)).astype(np.float32)
    return AlignedMasks(np.concatenate(embeddings), np.concatenate(classes), tuple(images), texts, len(records))


def _read(record: dict[str, Any], num_classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and true train ids of a record."""
    name, file = record["file_name"], record.get("sem_seg_file_name")
    if file is None:
        raise ValueError(f"image {name} has no labels to match masks with: take a split that has some.")
    image, labels = read_image(name), read_label_map(file, record.get("label_format", "train_ids"), num_classes)
    if image.shape[:2] != labels.shape:
        raise ValueError(f"image {name} is {image.shape[:2]} but its label map {file} {labels.shape} (height, width).")
    return image, labels
