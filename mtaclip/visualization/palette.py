"""Names and colours of classes, and label maps turned into colours.

Shapes: `C` classes, `H, W` image size. Colours are (red, green, blue), uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from numpy.typing import NDArray

from mtaclip.data.folder import FOLDER_DATASETS, folder_classes
from mtaclip.data.palette import colour_blind_colours, distinct_colours
from mtaclip.data.vocabulary import load_test_vocabulary


@dataclass(frozen=True, eq=False)
class Palette:
    """The classes of a dataset as they are shown.

    Attributes:
        names: C class names, in the order of the train ids.
        colours: (C, 3) uint8 RGB.
    """

    names: tuple[str, ...]
    colours: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.colours.shape != (len(self.names), 3) or self.colours.dtype != np.uint8:
            raise ValueError(
                f"a palette of {len(self.names)} classes needs colours of shape ({len(self.names)}, 3) and type uint8, "
                f"not {self.colours.shape} and {self.colours.dtype}."
            )

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> "Palette":
        """Read `stuff_classes` and `stuff_colors`; metadata without colours get distinct ones.

        Args:
            metadata: Detectron2 metadata of a registered dataset.

        Raises:
            ValueError: there are no class names, or not one colour of three values in 0 .. 255 per class.
        """
        dataset = metadata.get("name", "unnamed")
        names = metadata.get("stuff_classes")
        if not names:
            raise ValueError(
                f"dataset '{dataset}' has no class names: register it, or set 'stuff_classes' in MetadataCatalog."
            )
        colours = metadata.get("stuff_colors", distinct_colours(len(names)))
        if len(colours) != len(names) or not all(_is_colour(colour) for colour in colours):
            raise ValueError(
                f"dataset '{dataset}': 'stuff_colors' must hold one (red, green, blue) in 0 .. 255 for each of the "
                f"{len(names)} classes."
            )
        return cls(tuple(names), np.array(colours, dtype=np.uint8))

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset: str | None = None) -> "Palette":
        """The classes that the model of a config predicts, as a dataset shows them, or those of TEST.VOCABULARY.

        Args:
            cfg: DATASETS.TEST, DATASETS.FOLDER.NAMES, MODEL.SEM_SEG_HEAD.NUM_CLASSES and TEST.VOCABULARY are read.
            dataset: a registered dataset; None is the first of DATASETS.TEST.

        Raises:
            ValueError: there is no test dataset, its metadata are incomplete, it has another number of classes, or
                there is no such vocabulary.
        """
        if dataset is None and not cfg.DATASETS.TEST:
            raise ValueError("DATASETS.TEST is empty: name the dataset whose classes the model predicts.")
        name = dataset or cfg.DATASETS.TEST[0]
        names = [texts[0] for texts in folder_classes(cfg)]
        if name in FOLDER_DATASETS and names:  # a checkpoint's config needs no registered dataset
            palette = cls(tuple(names), np.array(distinct_colours(len(names)), dtype=np.uint8))
        else:
            palette = cls.from_metadata(MetadataCatalog.get(name))
        if len(palette.names) != cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES:
            raise ValueError(
                f"dataset '{name}' has {len(palette.names)} classes, the model {cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES}: "
                "name the dataset whose classes the model predicts."
            )
        return palette.tested(cfg)

    def tested(self, cfg: CfgNode) -> "Palette":
        """The classes of TEST.VOCABULARY in place of these, if it names any.

        Raises:
            ValueError: there is no such vocabulary.
        """
        classes = load_test_vocabulary(cfg.TEST.VOCABULARY)
        return self if classes is None else self.for_names([texts[0] for texts in classes])

    def for_names(self, names: Sequence[str]) -> "Palette":
        """Classes of other names: in the colours of this palette where it has them, else in others that are distinct.

        Args:
            names: of the classes, in their order.
        """
        known = {name.casefold(): tuple(colour) for name, colour in zip(self.names, self.colours.tolist(), strict=True)}
        new = [name.casefold() for name in names if name.casefold() not in known]
        known |= dict(zip(new, distinct_colours(len(new), tuple(known.values())), strict=True))
        return Palette(tuple(names), np.array([known[name.casefold()] for name in names], dtype=np.uint8))

    def colour_blind(self) -> "Palette":
        """The same classes in colours that people with colour-vision deficiencies can tell apart as well."""
        return Palette(self.names, np.array(colour_blind_colours(len(self.names)), dtype=np.uint8))

    def train_ids(self, names: Sequence[str]) -> tuple[int, ...]:
        """Find classes by name, whatever its upper and lower case.

        Raises:
            ValueError: there is no such class; the message lists similar names.
        """
        known = {name.casefold(): index for index, name in enumerate(self.names)}
        for name in names:
            if name.casefold() not in known:
                raise ValueError(f"there is no class '{name}'; {self._hint(name)}.")
        return tuple(known[name.casefold()] for name in names)

    def find(self, text: str) -> tuple[int, ...] | None:
        """Train ids of classes whose names are separated by commas; None if there is no name.

        A text that is itself a name, commas and all, is that class.

        Raises:
            ValueError: see `train_ids`.
        """
        if text.strip().casefold() in map(str.casefold, self.names):
            return self.train_ids([text.strip()])
        names = [name.strip() for name in text.split(",") if name.strip()]
        return self.train_ids(names) if names else None

    def _hint(self, name: str) -> str:
        lowered = {other.casefold(): other for other in self.names}
        close = [lowered[match] for match in get_close_matches(name.casefold(), lowered, cutoff=0.5)]
        close += [other for other in self.names if name.casefold() in other.casefold() and other not in close]
        return f"close are: {', '.join(close)}" if close else f"the classes are: {', '.join(self.names)}"


def colour_map(
    labels: NDArray[np.uint8], colours: NDArray[np.uint8] | Sequence[Sequence[int]], ignore_label: int = 255
) -> NDArray[np.uint8]:
    """Paint every pixel in the colour of its class; ignored pixels become black.

    Args:
        labels: (H, W) uint8 train ids, or the ignore label.
        colours: (C, 3) RGB.
        ignore_label: C .. 255.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ValueError: `labels` is not (H, W) uint8, or holds a value that is neither a class nor the ignore label.
    """
    check_labels(labels, len(colours), ignore_label)
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    return table[labels]


def hide_classes(labels: NDArray[np.uint8], shown: Sequence[int], ignore_label: int = 255) -> NDArray[np.uint8]:
    """Replace all classes but some by the ignore label.

    Args:
        labels: (H, W) uint8 train ids.
        shown: train ids of the classes that stay.
        ignore_label: what the others become.

    Returns:
        (H, W) uint8.
    """
    return np.where(np.isin(labels, shown), labels, np.uint8(ignore_label))


def check_labels(labels: NDArray[np.uint8], num_classes: int, ignore_label: int = 255) -> None:
    """Raise if a label map cannot be shown with a palette of `num_classes` colours.

    Args:
        labels: (H, W) uint8.
        num_classes: number C of classes.
        ignore_label: the one value outside 0 .. C-1 that is allowed.

    Raises:
        ValueError: `labels` is not (H, W) uint8, or holds a value that is neither a class nor the ignore label.
    """
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise ValueError(f"a label map must be (H, W) uint8, not {labels.shape} {labels.dtype}.")
    if not num_classes <= ignore_label <= 255:
        raise ValueError(f"the ignore label {ignore_label} must lie between the class count {num_classes} and 255.")
    outside = np.unique(labels[(labels >= num_classes) & (labels != ignore_label)])
    if outside.size:
        raise ValueError(
            f"the label map holds the label {outside[0]}, but there are {num_classes} classes (0 .. {num_classes - 1})."
        )


def _is_colour(colour: Sequence[int]) -> bool:
    return len(colour) == 3 and all(0 <= value <= 255 for value in colour)
