"""Evaluation that writes its predictions and goes on from those that are there.

Shapes: `H, W` the original size of an image.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import Tensor, nn

from mtaclip.evaluation.outputs import predicted_labels
from mtaclip.evaluation.prediction_folder import PredictionFolder

logger = logging.getLogger(__name__)


class SavedPredictions(nn.Module):
    """A model in eval mode that computes only the images whose labels are not in a folder.

    Args:
        model: from images to a dict for each, with `labels`, train ids (H, W), uint8.
        folder: prepared.
    """

    def __init__(self, model: nn.Module, folder: PredictionFolder) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._folder = folder

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """One dict per image, in order: what the model returns, or only `labels`, on the host, read from the folder.

        Args:
            batched_inputs: dicts with `file_name`, and `height` and `width` in pixels; what else the model needs.
        """
        saved = [self._folder.read(x["file_name"], (x["height"], x["width"])) for x in batched_inputs]
        missing = [x for x, labels in zip(batched_inputs, saved, strict=True) if labels is None]
        computed = iter(self.model(missing) if missing else ())
        return [next(computed) if labels is None else {"labels": torch.from_numpy(labels)} for labels in saved]


class PredictionWriter(DatasetEvaluator):
    """Writes the label maps of the evaluated images; it has no scores.

    Args:
        folder: prepared.
    """

    def __init__(self, folder: PredictionFolder) -> None:
        self._folder = folder

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Tensor]]) -> None:
        """Write the labels of a batch.

        Args:
            inputs: dicts with `file_name`, and `height` and `width` in pixels.
            outputs: for each input a dict with `labels`, train ids (H, W), uint8.

        Raises:
            ValueError: labels are not what they should be.
            OSError: see `PredictionFolder.write`.
        """
        for record, output in zip(inputs, outputs, strict=True):
            labels = predicted_labels(output, record["file_name"], self._folder.num_classes)
            size = (record["height"], record["width"])
            if labels.shape != size:
                raise ValueError(
                    f"{record['file_name']}: the model's 'labels' are {labels.shape}, the image is {size}."
                )
            self._folder.write(record["file_name"], labels)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Wait for the files of all processes and log where they are.

        Returns:
            an empty dict.
        """
        comm.synchronize()
        if comm.is_main_process():
            logger.info("%s: %s.", self._folder.dataset_name, self._folder.describe())
        return OrderedDict()
