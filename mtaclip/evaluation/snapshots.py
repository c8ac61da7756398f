"""The same few images at every evaluation, so that one sees a model learn.

Shapes: `H, W` size of an image.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from numpy.typing import NDArray

from mtaclip.data.labels import read_label_map
from mtaclip.evaluation.gallery import Example, draw_panels, make_example
from mtaclip.evaluation.outputs import predicted_labels, training_storage
from mtaclip.files import not_written, output_stems, remove_partial_files, replace_file
from mtaclip.visualization import Palette
from mtaclip.visualization.encode import encode_png

logger = logging.getLogger(__name__)

_GAP = 6  # pixels between pictures


class SnapshotEvaluator(DatasetEvaluator):
    """Draws some images side by side: photo, prediction, ground truth and errors; it has no scores.

    A row is at most 4 x 480 pixels wide. In training it is also given to TensorBoard, and its file is named after the
    iteration.
    """

    def __init__(
        self, dataset_name: str, records: Sequence[Mapping[str, Any]], count: int, output_dir: str | Path
    ) -> None:
        """Choose the images: evenly spaced among those that have labels.

        Args:
            dataset_name: registered dataset whose metadata have `stuff_classes` and, if you like, `stuff_colors`.
            records: its images, dicts with `file_name` and `sem_seg_file_name`.
            count: number of images; all, if there are fewer.
            output_dir: `<stem>_<iteration>.png`, or `<stem>.png` outside of training, go there.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._palette = Palette.from_metadata(metadata)
        self._dataset_name = dataset_name
        self._output_dir = Path(output_dir)
        labelled = [str(record["file_name"]) for record in records if record.get("sem_seg_file_name")]
        count = min(count, len(labelled))
        chosen = [labelled[i * len(labelled) // count] for i in range(count)]
        self._stems = dict(zip(chosen, output_stems([Path(name) for name in chosen]), strict=True))
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        self._examples: dict[str, Example] = {}

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Keep the chosen ones of a batch, in miniature.

        Args:
            inputs: dicts with `file_name`, `sem_seg_file_name` and `label_format` ("train_ids" if it is missing).
            outputs: for each input a dict with `labels`, classes (H, W), uint8.

        Raises:
            ValueError: labels cannot be used.
        """
        for record, output in zip(inputs, outputs, strict=True):
            name, label_file = str(record["file_name"]), record.get("sem_seg_file_name")
            if name not in self._stems or not label_file:
                continue
            truth = read_label_map(label_file, record.get("label_format", "train_ids"), len(self._palette.names))
            labels = predicted_labels(output, name, len(self._palette.names))
            self._examples[name] = make_example(float("nan"), name, str(label_file), labels, truth)

    def evaluate(self) -> OrderedDict[str, dict[str, float]]:
        """Gather the miniatures of all processes (some 100 kB each) and draw them on the main process.

        Returns:
            an empty dict.
        """
        parts = comm.gather(self._examples, dst=0)
        if comm.is_main_process():
            remove_partial_files(self._output_dir)
            found = {name: example for part in parts for name, example in part.items()}
            for name in self._stems:
                if name in found:
                    self._show(found[name])
        return OrderedDict()

    def _show(self, example: Example) -> None:
        row, storage = draw_row(example, self._palette), training_storage()
        stem = self._stems[example.file_name]
        if storage is not None:
            storage.put_image(f"{self._dataset_name}/{stem}", row.transpose(2, 0, 1))
            stem = f"{stem}_{storage.iter:07d}"
        file = self._output_dir / f"{stem}.png"
        try:
            self._output_dir.mkdir(parents=True, exist_ok=True)
            replace_file(file, encode_png(row))
        except OSError as error:
            logger.error("%s.", not_written(file, error))


def draw_row(example: Example, palette: Palette) -> NDArray[np.uint8]:
    """Photo, prediction, ground truth and errors of an example side by side, as one RGB picture.

    Args:
        example: from `make_example`.
        palette: names and colours of the classes.
    """
    panels = draw_panels(example, palette)
    size = max(panel.shape[:2] for panel in panels)
    panels = [cv2.resize(panel, size[::-1], interpolation=cv2.INTER_NEAREST) for panel in panels]
    gap = np.full((size[0], _GAP, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (gap, panel)][1:])
