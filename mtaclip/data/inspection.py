"""Reads every file of a dataset and counts what is in it, and what is wrong with it.

Shapes: `C` classes, `H, W` the size of an image.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mtaclip.data.datasets import Record
from mtaclip.data.image_files import read_image, read_label_values
from mtaclip.data.labels import IGNORE_LABEL, label_table
from mtaclip.data.workers import without_interrupts

NO_LABEL = "images without label map"
NO_IMAGE = "label maps without image"
SHARED = "label maps of several images"
UNUSABLE = "files that cannot be used"
SIZES = "images and label maps of different sizes"
VALUES = "label values that are no class"
TWICE = "images that are in two datasets"

_DEFAULT_FORMAT = "train_ids"
_WORKERS_PER_CORE = 4


@dataclass(frozen=True, eq=False)
class Finding:
    """What an image and its label map are like.

    Attributes:
        size: (height, width) of the image in pixels; None if it cannot be read.
        pixels: (256,) pixels of every value in the label map; None if there is none, or it cannot be read.
        digest: of the image file's content; None if it cannot be read.
        problems: kind of each problem, and a sentence on it.
    """

    size: tuple[int, int] | None
    pixels: NDArray[np.int64] | None
    digest: bytes | None
    problems: tuple[tuple[str, str], ...]


class _Findings(Dataset):
    """The findings of records, computed when they are asked for."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Finding:
        return inspect_record(self._records[index])


def inspect_record(record: Record) -> Finding:
    """Read the image and the label map of a record.

    Args:
        record: see `mtaclip.data.datasets.get_records`.
    """
    problems: list[tuple[str, str]] = []
    size = pixels = digest = None
    try:
        size = read_image(record["file_name"]).shape[:2]
        digest = blake2b(Path(record["file_name"]).read_bytes(), digest_size=16).digest()
    except (OSError, ValueError) as error:
        problems.append((UNUSABLE, str(error)))
    label_file = record.get("sem_seg_file_name")
    if label_file is not None:
        try:
            values = read_label_values(label_file)
        except (OSError, ValueError) as error:
            problems.append((UNUSABLE, str(error)))
        else:
            pixels = np.bincount(values.ravel(), minlength=256)
            if size is not None and values.shape != size:
                sizes = f"{size[0]} x {size[1]}, its label map {values.shape[0]} x {values.shape[1]}"
                problems.append((SIZES, f"image {record['file_name']} is {sizes} (height x width)."))
    return Finding(size, pixels, digest, tuple(problems))


def inspect_records(records: Sequence[Record], workers: int) -> Iterator[Finding]:
    """Read all files of records.

    Args:
        records: see `mtaclip.data.datasets.get_records`.
        workers: processes that read, no more than there are records, and than a few per core; 0 reads in this one.

    Yields:
        the finding of each record, in their order.
    """
    loader = DataLoader(
        _Findings(records),
        num_workers=min(workers, len(records), _WORKERS_PER_CORE * (os.cpu_count() or 1)),
        collate_fn=list,
    )
    with without_interrupts():
        findings = iter(loader)
    for (finding,) in findings:
        yield finding


@dataclass(eq=False)
class Summary:
    """The findings of a dataset, added up.

    Attributes:
        name: of the dataset.
        class_names: C names.
        num_images: images looked at; those that cannot be read count.
        num_labelled: of these, those whose label map can be read.
        sizes: number of images of every (height, width).
        problems: sentences, or files, by kind.
        files: path of every image by the digest of its content.
        usable: numbers of the records that can be trained on.
    """

    name: str
    class_names: Sequence[str]
    num_images: int = 0
    num_labelled: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    files: dict[bytes, str] = field(default_factory=dict)
    usable: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        # By label format, (2, 256): pixels of every value, and label maps with at least one.
        self._counts: defaultdict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros((2, 256), np.int64))
        self._unknown: dict[tuple[str, int], str] = {}  # (format, value): the first label map with it

    def add(self, record: Record, finding: Finding) -> None:
        """Count one more image.

        Raises:
            ValueError: the record's label format is unknown, or does not have C classes.
        """
        known = True
        if finding.pixels is not None:
            known = self._add_labels(record, finding.pixels)
            self.num_labelled += 1
        if finding.size is not None:
            self.sizes[finding.size] += 1
        if finding.digest is not None:
            self.files.setdefault(finding.digest, record["file_name"])
        for kind, sentence in finding.problems:
            self.problems[kind].append(sentence)
        if finding.pixels is not None and known and not finding.problems:
            self.usable.append(self.num_images)
        self.num_images += 1

    def classes(self) -> NDArray[np.int64]:
        """(2, C + 1): pixels of every class, and label maps in which it occurs; those without label come last."""
        total = np.zeros((2, len(self.class_names) + 1), np.int64)
        for label_format, counts in self._counts.items():
            table = label_table(label_format, len(self.class_names))
            for value in np.flatnonzero((table >= 0) & (counts[0] > 0)):
                total[:, -1 if table[value] == IGNORE_LABEL else table[value]] += counts[:, value]
        return total

    def missing_classes(self) -> list[str]:
        """Names of classes that no label map has; none where there is no label map."""
        if not self.num_labelled:
            return []
        pixels = self.classes()[0]
        return [name for name, count in zip(self.class_names, pixels, strict=False) if not count]

    def all_problems(self) -> dict[str, list[str]]:
        """`problems`, and the label values that are no class."""
        found = {kind: sentences for kind, sentences in self.problems.items() if sentences}
        if self._unknown:
            found[VALUES] = [self._about_value(*key, file) for key, file in sorted(self._unknown.items())]
        return found

    def _add_labels(self, record: Record, pixels: NDArray[np.int64]) -> bool:
        """Count a label map; returns whether all its values are known."""
        label_format = record.get("label_format", _DEFAULT_FORMAT)
        self._counts[label_format] += np.stack([pixels, pixels > 0])
        unknown = (label_table(label_format, len(self.class_names)) < 0) & (pixels > 0)
        for value in np.flatnonzero(unknown).tolist():
            self._unknown.setdefault((label_format, value), record["sem_seg_file_name"])
        return not unknown.any()

    def _about_value(self, label_format: str, value: int, file: str) -> str:
        pixels, maps = self._counts[label_format][:, value].tolist()
        return (
            f"{value} in {maps} label map(s), {pixels} pixel(s), first in {file}: label format '{label_format}' of "
            f"{len(self.class_names)} classes has no such value."
        )


def add_duplicates(summaries: Sequence[Summary]) -> None:
    """Note as a problem of the later dataset every image that an earlier one has, too, as the same file or a copy."""
    for number, summary in enumerate(summaries):
        for earlier in summaries[:number]:
            for digest in summary.files.keys() & earlier.files.keys():
                same, other = summary.files[digest], earlier.files[digest]
                original = "also an image" if same == other else other
                summary.problems[TWICE].append(f"{same} is {original} of {earlier.name}.")
            summary.problems[TWICE].sort()
