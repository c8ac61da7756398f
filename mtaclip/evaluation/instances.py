"""Cityscapes' instance-weighted counts, from which the iIoU comes.

A large car near the camera has as many pixels as dozens of cars far away. The iIoU lets every object count the same:
each of its pixels weighs the average size of the class's objects, divided by the size of this object.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from numpy.typing import NDArray

from mtaclip.data.image_files import read_instance_map

# Average number of pixels of an object in Cityscapes' training images; the benchmark's constants.
AVERAGE_SIZES = {
    "bicycle": 4672.3249222261,
    "bus": 35732.1511111111,
    "car": 12794.0202738185,
    "motorcycle": 6298.7200839748,
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "train": 67583.7075812274,
    "truck": 27855.1264367816,
}
_FACTOR = 1000  # an object's pixels hold label id * 1000 + its number
_LABELS, _INSTANCES = "_labelIds.png", "_instanceIds.png"


def instance_file(label_file: str | Path) -> Path | None:
    """The instance map that lies beside a map of Cityscapes' label ids; None if there is none."""
    name = str(label_file)
    file = Path(name.removesuffix(_LABELS) + _INSTANCES)
    return file if name.endswith(_LABELS) and file.is_file() else None


def weighted_counts(prediction: NDArray[np.uint8], file: str | Path, class_names: Sequence[str]) -> NDArray[np.float64]:
    """Confusion matrix of the pixels of counted objects, each weighted as said above.

    Args:
        prediction: (H, W) uint8, classes 0 .. C-1.
        file: instance map in Cityscapes' format.
        class_names: names of the C classes; objects of other classes are left out.

    Returns:
        (C, C) float64, rows = ground truth, columns = prediction.

    Raises:
        FileNotFoundError, ValueError: see `mtaclip.data.image_files.read_instance_map`.
        ValueError: the sizes differ, or the file holds an object of no class.
    """
    instances = read_instance_map(file)
    if instances.shape != prediction.shape:
        raise ValueError(
            f"{file}: the instance map is {instances.shape} pixels (height, width) and the prediction "
            f"{prediction.shape}; they must be of one size."
        )
    num_classes = len(class_names)
    places = np.flatnonzero(instances > _FACTOR)
    ids = instances.ravel()[places]
    present = np.flatnonzero(np.bincount(ids))
    position = np.zeros(np.iinfo(np.uint16).max + 1, dtype=np.intp)
    position[present] = np.arange(len(present)) * num_classes
    pairs = position[ids] + prediction.ravel()[places]
    pixels = np.bincount(pairs, minlength=len(present) * num_classes).reshape(len(present), num_classes)
    result = np.zeros((num_classes, num_classes))
    for instance, predicted in zip(present.tolist(), pixels, strict=True):
        label = id2label.get(instance // _FACTOR)
        if label is None:
            raise ValueError(f"{file}: the value {instance} stands for an object of no class; is the file intact?")
        if label.name in AVERAGE_SIZES and label.name in class_names:
            result[class_names.index(label.name)] += predicted * (AVERAGE_SIZES[label.name] / predicted.sum())
    return result
