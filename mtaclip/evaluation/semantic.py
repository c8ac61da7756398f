"""Evaluation of semantic segmentation on one or many processes.

Shapes: `C` classes, `H, W` the original size of an image.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray
from torch import Tensor

from mtaclip.data.labels import read_label_map
from mtaclip.evaluation.boundary import boundary_counts
from mtaclip.evaluation.confusion import ConfusionMatrix
from mtaclip.evaluation.gallery import Example, Gallery
from mtaclip.evaluation.html_report import html_report
from mtaclip.evaluation.instances import AVERAGE_SIZES, instance_file, weighted_counts
from mtaclip.evaluation.outputs import predicted_labels, training_storage
from mtaclip.evaluation.report import (
    category_table,
    class_table,
    markdown_report,
    summary_table,
    write_file,
    write_scores,
)
from mtaclip.evaluation.scores import boundary_scores, instance_scores, mean_iou, semantic_scores
from mtaclip.evaluation.tables import ImageTables, Tables
from mtaclip.visualization import Palette

logger = logging.getLogger(__name__)


class SemanticEvaluator(DatasetEvaluator):
    """Counts predictions and scores the counts: mIoU, fwIoU, mACC, pACC, per class and category.

    Where Cityscapes' instance maps lie beside the label maps, also the benchmark's iIoU. Of each image a few kB are
    kept, and processes exchange nothing but their sums (16 C^2 bytes each), 8 bytes per image and miniatures of the few
    images that the report may show, so any number of processes and machines works, on CPU and GPU, with shares of any
    size; an image that several processes were given counts once. Scores are percentages; how they are defined is
    written in `mtaclip.evaluation.scores`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | Path | None = None,
        *,
        distributed: bool = True,
        boundary_iou: bool = False,
        report: str | None = "report",
        examples: int = 4,
        weights: str | None = None,
    ) -> None:
        """Take names, categories and the ignore label from the dataset's metadata.

        Args:
            dataset_name: registered dataset whose metadata have `stuff_classes`, `ignore_label` and, where classes
                are grouped, `stuff_categories` (name of the category of every class).
            output_dir: folder for `scores_<dataset_name>.json` and the report; None or "" writes no file.
            distributed: sum the matrices of all processes; False scores the images of this process alone.
            boundary_iou: also score the boundaries, see `mtaclip.evaluation.boundary`.
            report: the scores are also written as `<report>.html`, a page with charts and pictures, and `<report>.md`;
                None writes neither.
            examples: number of best images, and of worst images, that the page shows.
            weights: what the scores are of, for the JSON file; see `mtaclip.evaluation.report.write_scores`.

        Raises:
            ValueError: the metadata have no class names or no ignore label, names and categories do not agree, or the
                colours are not those of the classes.
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
        self._boundary_iou = boundary_iou
        self._weights = weights
        self._report_file = self._output_dir / report if self._output_dir is not None and report else None
        self._palette = Palette.from_metadata(metadata) if self._report_file is not None else None
        self._num_examples = examples if self._report_file is not None else 0
        self.reset()
        counts = ConfusionMatrix(len(self._class_names), self._ignore_label).counts
        semantic_scores(counts, self._class_names, self._categories)  # bad names fail now, not at the end

    def reset(self) -> None:
        """Forget every image."""
        self._images = ImageTables(len(self._class_names))
        self._gallery = Gallery(self._num_examples, self._ignore_label)

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Tensor]]) -> None:
        """Count the pixels of a batch.

        Args:
            inputs: dicts with `file_name`, `sem_seg_file_name` and `label_format` ("train_ids" if it is missing).
            outputs: for each input a dict with `labels` or `sem_seg` at the original size, see
                `mtaclip.evaluation.outputs.predicted_labels`.

        Raises:
            ValueError: an image has no labels; scores are not finite, have the wrong class count or not the size
                of the labels; predicted classes are not (H, W) uint8.
        """
        for record, output in zip(inputs, outputs, strict=True):
            label_file = record.get("sem_seg_file_name")
            if not label_file:
                raise ValueError(
                    f"{record['file_name']}: dataset '{self._dataset_name}' has no labels for this image and cannot be "
                    "evaluated; set DATASETS.TEST to a split with labels."
                )
            prediction = predicted_labels(output, record["file_name"], len(self._class_names))
            truth = read_label_map(label_file, record.get("label_format", "train_ids"), len(self._class_names))
            tables = self._count(prediction, truth, str(label_file))
            self._images.set(f"{record['file_name']}\n{label_file}", tables)
            score = 100.0 * mean_iou(tables.counts)
            self._gallery.offer(score, str(record["file_name"]), str(label_file), prediction, truth)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Sum over the processes, score, log and write the result.

        Returns:
            on the main process `{"sem_seg": scores}`, where `scores` are the percentages of
            `mtaclip.evaluation.scores.semantic_scores`; elsewhere an empty dict.

        Raises:
            ValueError: no process has seen an image.
            OSError: the scores cannot be written; raised after they were logged, and in a training only logged.
        """
        if self._distributed:
            comm.synchronize()
        total = self._images.sum(self._distributed)
        best, worst = self._gallery.choose(self._distributed)
        if total is None:
            return OrderedDict()
        if total.num_images == 0:
            raise ValueError(f"dataset '{self._dataset_name}': no image was evaluated; the dataset or loader is empty.")
        scores = self._scores(total)
        problem = self._write_scores(scores, total)
        self._write_report(scores, total, best, worst)
        self._log_tables(scores, total)
        if problem is not None:
            if training_storage() is None:
                raise problem
            logger.error("%s Training goes on.", problem)
        return OrderedDict(sem_seg=scores)

    def _count(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8], label_file: str) -> Tables:
        """Everything that is counted of one image."""
        matrix = ConfusionMatrix(len(self._class_names), self._ignore_label)
        matrix.update(prediction, truth, label_file)
        tables = replace(Tables.empty(len(self._class_names)), counts=matrix.counts, num_images=1)
        objects = instance_file(label_file)
        if objects is not None:
            tables.weighted = weighted_counts(prediction, objects, self._class_names)
            tables.num_instance_maps = 1
        if self._boundary_iou:
            tables.boundary = boundary_counts(prediction, truth, len(self._class_names), self._ignore_label)
        return tables

    def _scores(self, total: Tables) -> dict[str, float]:
        scores = semantic_scores(total.counts, self._class_names, self._categories)
        if total.num_instance_maps == total.num_images and self._categories is not None:
            scores |= instance_scores(
                total.counts, total.weighted, self._class_names, self._categories, list(AVERAGE_SIZES)
            )
        elif total.num_instance_maps:
            logger.warning(
                "%s: iIoU is left out, since %d of %d images have no *_instanceIds.png beside their labels.",
                self._dataset_name,
                total.num_images - total.num_instance_maps,
                total.num_images,
            )
        if self._boundary_iou:
            scores |= boundary_scores(total.boundary, self._class_names)
        return scores

    def _write_report(self, scores: dict[str, float], total: Tables, best: list[Example], worst: list[Example]) -> None:
        """Write the page and the Markdown; a failure costs no scores, so it is only logged."""
        if self._report_file is None or self._palette is None:
            return
        images = "1 image" if total.num_images == 1 else f"{total.num_images} images"
        facts = ["Semantic segmentation", images, datetime.now().astimezone().strftime("%Y-%m-%d %H:%M")]
        page = html_report(self._dataset_name, facts, scores, total.counts, self._palette, best, worst)
        text = markdown_report(self._dataset_name, facts, scores, total.counts, self._class_names)
        for suffix, content in ((".html", page), (".md", text)):
            file = self._report_file.with_name(self._report_file.name + suffix)
            try:
                write_file(file, content)
            except OSError as error:
                logger.error("%s", error)
            else:
                logger.info("Report written to %s", file)

    def _write_scores(self, scores: dict[str, float], total: Tables) -> OSError | None:
        """Write the JSON file; returns what keeps it from being written."""
        if self._output_dir is None:
            return None
        file = self._output_dir / f"scores_{self._dataset_name}.json"
        try:
            write_scores(
                file, self._dataset_name, total.num_images, scores, total.counts, self._class_names, self._weights
            )
        except OSError as error:
            return error
        logger.info("Scores written to %s", file)
        return None

    def _log_tables(self, scores: dict[str, float], total: Tables) -> None:
        name, classes = self._dataset_name, class_table(scores, total.counts, self._class_names)
        logger.info("Scores per class on %s:\n%s", name, classes)
        if self._categories is not None:
            logger.info("Scores per category on %s:\n%s", name, category_table(scores))
        logger.info("%s, %d images:\n%s", name, total.num_images, summary_table(scores))
