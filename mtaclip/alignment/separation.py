"""How well masks of different classes keep apart in CLIP's space, and what that space looks like.

Letters: M masks, C classes, n contexts, N points, D width of the space.
"""

import numpy as np
from numpy.typing import NDArray


def silhouette(embeddings: NDArray[np.floating], classes: NDArray[np.integer]) -> NDArray[np.float64]:
    """The silhouette of every mask, by cosine distance (1 - cosine).

    With a the mean distance to the other masks of the class, and b the smallest mean distance to the masks of another
    class, it is (b - a) / max(a, b): 1 for a mask amid its class and far from others, below 0 for one that is closer
    to another class. It is 0 for the only mask of a class. The score of a data set is the mean.

    Args:
        embeddings: (M, D), of any length but 0.
        classes: (M,) class of each mask.

    Returns:
        (M,) in -1 .. 1.

    Raises:
        ValueError: there are fewer than two classes, which have nothing to be apart from.
    """
    names, index, counts = np.unique(classes, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"a silhouette needs masks of two or more classes, here are {len(names)}.")
    unit = embeddings.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    sums = np.eye(len(names))[index].T @ unit  # of each class
    cosines = unit @ sums.T
    everyone, own = np.arange(len(unit)), counts[index]
    inside = _distance((cosines[everyone, index] - 1.0) / np.maximum(own - 1, 1))
    outside = _distance(cosines / counts)
    outside[everyone, index] = np.inf
    nearest = outside.min(axis=1)
    larger = np.maximum(np.maximum(inside, nearest), np.finfo(np.float64).tiny)
    return np.where(own > 1, (nearest - inside) / larger, 0.0)


def margin(
    embeddings: NDArray[np.floating], classes: NDArray[np.integer], texts: NDArray[np.floating]
) -> NDArray[np.float64]:
    """How much closer every mask is to the texts of its class than to those of any other, in cosines.

    Of each class the context counts that fits best. Above 0 the mask is classified correctly by the texts.

    Args:
        embeddings: (M, D), of length 1.
        classes: (M,) class of each mask.
        texts: (n, C, D), of length 1.

    Returns:
        (M,) in -2 .. 2.
    """
    cosines = np.einsum("md,ncd->nmc", embeddings, texts).max(axis=0).astype(np.float64)
    own = cosines[np.arange(len(classes)), classes]
    cosines[np.arange(len(classes)), classes] = -np.inf
    return own - cosines.max(axis=1)


def project(points: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two directions in which points differ most (principal components), and the points along them.

    Args:
        points: (N, D), N and D at least 2.

    Returns:
        (N, 2) coordinates, of mean 0, and (2,) the share of the points' variance along each. The signs are such that
        the coordinate that is furthest from 0 is positive.
    """
    centred = points.astype(np.float64) - points.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    coordinates = left[:, :2] * sizes[:2]
    furthest = np.abs(coordinates).argmax(axis=0)
    coordinates *= np.where(coordinates[furthest, [0, 1]] < 0, -1.0, 1.0)
    return coordinates, sizes[:2] ** 2 / max(float((sizes**2).sum()), np.finfo(np.float64).tiny)


def _distance(cosines: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(1.0 - cosines, 12)  # so that equal embeddings are no distance apart
