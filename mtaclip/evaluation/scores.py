"""Scores of semantic segmentation, computed from a confusion matrix.

Every function takes `counts`, a (C, C) integer confusion matrix (rows = ground truth, columns = prediction, ignored
pixels left out), and returns fractions between 0 and 1; only `semantic_scores` returns percent, as Detectron2 does.

Rules for empty classes, the same as in Cityscapes' official evaluation script:

- a class that neither occurs nor is predicted has no IoU (nan) and does not enter the mean;
- a class that is predicted and does not occur has IoU 0 and enters the mean.

Detectron2's `SemSegEvaluator` computes the same mIoU, fwIoU, mACC and pACC; it differs in one entry only: it shows nan
instead of 0 as the per-class IoU of a class that is predicted and does not occur.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]


def class_iou(counts: Counts) -> Values:
    """Intersection over union of every class: TP / (TP + FP + FN).

    Returns:
        (C,) float64; nan for a class that neither occurs nor is predicted.
    """
    hits = counts.diagonal()
    return _ratio(hits, counts.sum(axis=0) + counts.sum(axis=1) - hits)


def class_accuracy(counts: Counts) -> Values:
    """Share of every class's true pixels that were predicted right: TP / (TP + FN).

    Returns:
        (C,) float64; nan for a class that does not occur.
    """
    return _ratio(counts.diagonal(), counts.sum(axis=1))


def mean_iou(counts: Counts) -> float:
    """mIoU: mean of `class_iou` over the classes that have one; nan if none has."""
    return _mean(class_iou(counts))


def mean_accuracy(counts: Counts) -> float:
    """mACC: mean of `class_accuracy` over the classes that occur; nan if none does."""
    return _mean(class_accuracy(counts))


def frequency_weighted_iou(counts: Counts) -> float:
    """fwIoU: `class_iou` of the classes that occur, weighted with their share of the true pixels; nan without any."""
    occurs = counts.sum(axis=1) > 0
    if not occurs.any():
        return float("nan")
    return float(np.average(class_iou(counts)[occurs], weights=counts.sum(axis=1)[occurs]))


def pixel_accuracy(counts: Counts) -> float:
    """pACC: share of all pixels that were predicted right; nan without pixels."""
    return float(_ratio(counts.trace(), counts.sum()))


def category_iou(counts: Counts, categories: Sequence[str]) -> dict[str, float]:
    """IoU of groups of classes, where confusing two classes of a group is no error.

    The definition is that of the category scores of Cityscapes' `evalPixelLevelSemanticLabeling`.

    Args:
        counts: (C, C) confusion matrix.
        categories: name of the category of every class, length C.

    Returns:
        IoU by category in order of first appearance; nan for one that neither occurs nor is predicted.

    Raises:
        ValueError: the number of names is not the number of classes.
    """
    if len(categories) != len(counts):
        raise ValueError(f"there are {len(categories)} category names for {len(counts)} classes.")
    names = list(dict.fromkeys(categories))
    member = np.array([[category == name for category in categories] for name in names], dtype=np.int64)
    return dict(zip(names, class_iou(member @ counts @ member.T).tolist(), strict=True))


def instance_iou(counts: Counts, weighted: Values, members: NDArray[np.bool_] | None = None) -> Values:
    """Cityscapes' iIoU: weighted TP / (weighted TP + FP + weighted FN).

    Args:
        counts: (C, C) confusion matrix.
        weighted: (C, C) weighted confusion matrix of counted objects, see `mtaclip.evaluation.instances`.
        members: (G, C), the classes of each of G groups, within which confusions are no error; None = every class.

    Returns:
        (G,) or (C,) float64; nan where there is neither such an object nor a false positive.
    """
    groups = (np.eye(len(counts)) if members is None else members).astype(np.int64)
    hits = (groups @ weighted @ groups.T).diagonal()
    false_positives = groups @ counts.sum(axis=0) - (groups @ counts @ groups.T).diagonal()
    return _ratio(hits, groups @ weighted.sum(axis=1) + false_positives)


def boundary_iou(boundary: Counts) -> Values:
    """Boundary IoU of every class, (C,) float64, from the (2, C) counts of `mtaclip.evaluation.boundary`."""
    return _ratio(boundary[0], boundary[1])


def instance_scores(
    counts: Counts, weighted: Values, class_names: Sequence[str], categories: Sequence[str], counted: Sequence[str]
) -> dict[str, float]:
    """Scores of `instance_iou` in percent.

    Args:
        counts: (C, C) confusion matrix.
        weighted: (C, C) weighted confusion matrix of counted objects.
        class_names: names of the classes, length C.
        categories: name of the category of every class, length C.
        counted: the classes whose objects are counted; a category has a score if they are all of its classes.

    Returns:
        "iIoU", "category iIoU", "iIoU-<class>" and "iIoU-category-<name>".
    """
    is_counted = np.isin(class_names, counted)
    classes = instance_iou(counts, weighted)[is_counted]
    of_class = {name: value for name, value in zip(np.array(class_names)[is_counted], classes.tolist(), strict=True)}
    names = [name for name in dict.fromkeys(categories) if is_counted[np.array(categories) == name].all()]
    members = np.array([np.array(categories) == name for name in names]).reshape(len(names), len(counts))
    values = instance_iou(counts, weighted, members)
    scores = {"iIoU": _mean(classes), "category iIoU": _mean(values)}
    scores |= {f"iIoU-{name}": value for name, value in of_class.items()}
    scores |= {f"iIoU-category-{name}": value for name, value in zip(names, values.tolist(), strict=True)}
    return {key: 100.0 * value for key, value in scores.items()}


def boundary_scores(boundary: Counts, class_names: Sequence[str]) -> dict[str, float]:
    """Scores of `boundary_iou` in percent: "boundary IoU", the mean, and "bIoU-<class>"."""
    values = boundary_iou(boundary)
    scores = {"boundary IoU": _mean(values)}
    scores |= {f"bIoU-{name}": value for name, value in zip(class_names, values.tolist(), strict=True)}
    return {key: 100.0 * value for key, value in scores.items()}


def semantic_scores(
    counts: Counts, class_names: Sequence[str], categories: Sequence[str] | None = None
) -> dict[str, float]:
    """All scores of a confusion matrix, under Detectron2's names and in percent (0 .. 100).

    Args:
        counts: (C, C) confusion matrix.
        class_names: names of the classes, length C.
        categories: name of the category of every class, length C; None leaves the category scores out.

    Returns:
        "mIoU", "fwIoU", "mACC", "pACC", "IoU-<class>" and "ACC-<class>"; with categories also "category mIoU" and
        "IoU-category-<name>". Undefined scores are nan.

    Raises:
        ValueError: the number of class or category names is not the number of classes, or two classes share a name.
    """
    if len(class_names) != len(counts):
        raise ValueError(f"there are {len(class_names)} class names for {len(counts)} classes.")
    if len(set(class_names)) != len(class_names):
        twice = next(name for name in class_names if list(class_names).count(name) > 1)
        raise ValueError(
            f"two classes are named '{twice}'; class names must differ, or their scores cannot be told apart."
        )
    scores = {
        "mIoU": mean_iou(counts),
        "fwIoU": frequency_weighted_iou(counts),
        "mACC": mean_accuracy(counts),
        "pACC": pixel_accuracy(counts),
    }
    by_category = {} if categories is None else category_iou(counts, categories)
    if by_category:
        scores["category mIoU"] = _mean(np.array(list(by_category.values())))
    for prefix, values in (("IoU", class_iou(counts)), ("ACC", class_accuracy(counts))):
        scores.update({f"{prefix}-{name}": value for name, value in zip(class_names, values.tolist(), strict=True)})
    scores.update({f"IoU-category-{name}": value for name, value in by_category.items()})
    return {key: 100.0 * value for key, value in scores.items()}


def _ratio(numerator: NDArray, denominator: NDArray) -> Values:
    """Elementwise quotient; nan where the denominator is 0."""
    with np.errstate(invalid="ignore"):
        return np.true_divide(numerator, denominator)


def _mean(values: Values) -> float:
    """Mean of the values that are not nan; nan if there are none."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if valid.size else float("nan")
