"""Evaluation of semantic segmentation on one or many processes.

Shapes: `C` classes, `H, W` the original size of an image.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import Tensor

from mtaclip.data.labels import read_label_map
from mtaclip.evaluation.confusion import ConfusionMatrix
from mtaclip.evaluation.report import category_table, class_table, summary_table, write_scores
from mtaclip.evaluation.scores import semantic_scores

logger = logging.getLogger(__name__)


class SemanticEvaluator(DatasetEvaluator):
    """Streams predictions into a confusion matrix and scores it: mIoU, fwIoU, mACC, pACC, per class and category.

    Nothing is kept per image, and processes exchange nothing but their matrices (8 C^2 bytes each), so any number of
    processes and machines works, on CPU and GPU, with shards of any size. Scores are percentages; how they are defined
    is written in `mtaclip.evaluation.scores`.
    """

    def __init__(self, dataset_name: str, output_dir: str | Path | None = None, *, distributed: bool = True) -> None:
        """Take names, categories and the ignore label from the dataset's metadata.

        Args:
            dataset_name: registered dataset whose metadata have `stuff_classes`, `ignore_label` and, where classes
                are grouped, `stuff_categories` (name of the category of every class).
            output_dir: folder for `scores_<dataset_name>.json`; None or "" writes no file.
            distributed: sum the matrices of all processes; False scores the images of this process alone.

        Raises:
            ValueError: the metadata have no class names or no ignore label, or names and categories do not agree.
        """
        metadata = MetadataCatalog.get(dataset_name)
        for key in ("stuff_classes", "ignore_label"):
            if metadata.get(key) is None:
                raise ValueError(
                    f"dataset '{dataset_name}' has no '{key}' in its metadata: register the dataset, or set '{key}' "
                    "in MetadataCatalog, before it is evaluated."
                )
        self._dataset_name = dataset_name
        self._class_names: list[str] = list(metadata.stuff_classes)
        self._categories: list[str] | None = metadata.get("stuff_categories")
        self._ignore_label: int = metadata.ignore_label
        self._output_dir = Path(output_dir) if output_dir else None
        self._distributed = distributed
        self.reset()
        semantic_scores(self._matrix.counts, self._class_names, self._categories)  # bad names fail now, not at the end

    def reset(self) -> None:
        """Forget every image."""
        self._matrix = ConfusionMatrix(len(self._class_names), self._ignore_label)
        self._num_images = 0

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Tensor]]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: dicts with `file_name`, `sem_seg_file_name` and `label_format` ("train_ids" if it is missing).
            outputs: for each input a dict with `sem_seg`: scores (C, H, W), float, at the original size. The class of
                a pixel is the one with the largest score, found on the scores' device.

        Raises:
            ValueError: an image has no labels; scores are not finite, have the wrong class count or not the size
                of the labels.
        """
        for record, output in zip(inputs, outputs, strict=True):
            label_file = record.get("sem_seg_file_name")
            if not label_file:
                raise ValueError(
                    f"{record['file_name']}: dataset '{self._dataset_name}' has no labels for this image and cannot be "
                    "evaluated; set DATASETS.TEST to a split with labels."
                )
            prediction = self._most_likely_class(output["sem_seg"], record["file_name"])
            truth = read_label_map(label_file, record.get("label_format", "train_ids"), len(self._class_names))
            self._matrix.update(prediction, truth, str(label_file))
            self._num_images += 1

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Sum over the processes, score, log and write the result.

        Returns:
            on the main process `{"sem_seg": scores}`, where `scores` are the percentages of
            `mtaclip.evaluation.scores.semantic_scores`; elsewhere an empty dict.

        Raises:
            ValueError: no process has seen an image.
        """
        counts, num_images = self._matrix.counts, self._num_images
        if self._distributed:
            comm.synchronize()
            gathered: list[tuple[NDArray[np.int64], int]] = comm.gather((counts, num_images), dst=0)
            if not comm.is_main_process():
                return OrderedDict()
            counts = np.sum([part for part, _ in gathered], axis=0)
            num_images = sum(number for _, number in gathered)
        if num_images == 0:
            raise ValueError(f"dataset '{self._dataset_name}': no image was evaluated; the dataset or loader is empty.")
        scores = semantic_scores(counts, self._class_names, self._categories)
        self._report(scores, counts, num_images)
        return OrderedDict(sem_seg=scores)

    def _most_likely_class(self, scores: Tensor, file_name: str) -> NDArray[np.uint8]:
        """Class of every pixel, (H, W) uint8 on the host, from scores (C, H, W)."""
        if scores.dim() != 3 or scores.shape[0] != len(self._class_names):
            raise ValueError(
                f"{file_name}: the model's scores have shape {tuple(scores.shape)}, but dataset '{self._dataset_name}' "
                f"has {len(self._class_names)} classes; set MODEL.SEM_SEG_HEAD.NUM_CLASSES to that number."
            )
        best, labels = scores.max(dim=0)  # nan wins every comparison, so `best` shows it
        if not torch.isfinite(best).all():
            raise ValueError(f"{file_name}: the model's scores hold nan or infinite values; check the checkpoint.")
        return labels.to(torch.uint8).cpu().numpy()

    def _report(self, scores: dict[str, float], counts: NDArray[np.int64], num_images: int) -> None:
        logger.info("Scores per class on %s:\n%s", self._dataset_name, class_table(scores, counts, self._class_names))
        if self._categories is not None:
            logger.info("Scores per category on %s:\n%s", self._dataset_name, category_table(scores))
        logger.info("%s, %d images:\n%s", self._dataset_name, num_images, summary_table(scores))
        if self._output_dir is not None:
            file = self._output_dir / f"scores_{self._dataset_name}.json"
            write_scores(file, self._dataset_name, num_images, scores, counts, self._class_names)
            logger.info("Scores written to %s", file)
