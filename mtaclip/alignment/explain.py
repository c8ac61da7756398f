"""What ties an image's mask queries to the prompted class texts, as numbers.

Letters: Q mask queries, C classes, K = C + 1 texts (the last is the no-object text), n contexts (prompts), D width of
CLIP's embedding space, H, W size at which the model sees the image, h, w that of its masks (H/4, W/4).
"""

from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtaclip.inference.windows import Window
from mtaclip.losses.targets import SemanticTargets
from mtaclip.modeling.meta_arch import MTACLIP, SMALLEST
from mtaclip.modeling.pixel_decoder import cell_centres
from mtaclip.predictor import ImageLike, Predictor
from mtaclip.structures import Predictions

_BAND = 64  # rows of the label map that are decided at a time


@dataclass(frozen=True)
class Segment:
    """The pixels of one class that one mask query decided.

    Attributes:
        query: number of the mask query, 0 .. Q-1.
        label: train id of the class.
        pixels: how many.
        score: the query's probability of that class, 0 .. 1.
        text: the class text (any, the no-object text too) that is most similar to the query.
        context: the context behind which it is, 0 .. n-1.
        similarity: their cosine.
    """

    query: int
    label: int
    pixels: int
    score: float
    text: int
    context: int
    similarity: float


@dataclass(frozen=True, eq=False)
class Alignment:
    """Mask queries of one image, prompted texts, and what became of both.

    Attributes:
        texts: K class texts, the no-object text last.
        image: (H, W, 3) uint8 RGB.
        probabilities: (Q, C) float32 class probabilities; what they miss to 1 is that of no object.
        similarity: (n, Q, K) float32 cosines between mask queries and prompted texts. Where synonyms are alternatives,
            each context comes once for the first text of every class, then for the second, and so on.
        masks: (Q, h, w) float32 mask probabilities.
        mask_embeddings: (Q, D) float32 mask queries in CLIP's space, of length 1.
        text_embeddings: (n, K, D) float32 prompted texts as this image refined them, of length 1.
        labels: (H, W) uint8, the class with the largest score at every pixel.
        owners: (H, W) int16, the mask query that adds most to that score.
    """

    texts: tuple[str, ...]
    image: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    similarity: NDArray[np.float32]
    masks: NDArray[np.float32]
    mask_embeddings: NDArray[np.float32]
    text_embeddings: NDArray[np.float32]
    labels: NDArray[np.uint8]
    owners: NDArray[np.int16]

    @property
    def contexts(self) -> NDArray[np.intp]:
        """The context behind which each text is most similar to each query, (Q, K); the first of equal ones."""
        return self.similarity.argmax(axis=0)

    @property
    def best_similarity(self) -> NDArray[np.float32]:
        """The cosine of each query with each text behind that context, (Q, K)."""
        return self.similarity.max(axis=0)

    def segments(self) -> list[Segment]:
        """What the label map is made of, the largest segment first."""
        pairs, pixels = np.unique(self._pairs(), return_counts=True)
        order = np.argsort(-pixels, kind="stable").tolist()
        return [self._segment(int(pairs[index]), int(pixels[index])) for index in order]

    def segment_map(self) -> NDArray[np.intp]:
        """The index in `segments` of every pixel, (H, W)."""
        _, index, pixels = np.unique(self._pairs(), return_inverse=True, return_counts=True)
        rank = np.empty_like(pixels)
        rank[np.argsort(-pixels, kind="stable")] = np.arange(len(pixels))
        return rank[index].reshape(self.labels.shape)

    def largest_classes(self, count: int) -> list[int]:
        """The classes with most pixels, the largest first, at most so many."""
        pixels = np.bincount(self.labels.ravel())
        order = np.argsort(-pixels, kind="stable")[:count]
        return [int(label) for label in order if pixels[label]]

    def context_maps(self, text: int) -> NDArray[np.float32]:
        """Where each context makes a class text fire, (n, h, w).

        The value of context z at a pixel is the largest, over all mask queries q, of the probability that the pixel is
        in q's mask times the cosine of q with the text behind z. A query with a cosine below zero counts as zero, so
        that values lie in 0 .. 1, and those of different contexts can be compared.

        Args:
            text: number of the class text, 0 .. K-1.
        """
        strength = self.similarity[:, :, text].clip(min=0.0)
        return np.stack([(self.masks * row[:, None, None]).max(axis=0) for row in strength])

    def _pairs(self) -> NDArray[np.int64]:
        """Query and class of every pixel as one number."""
        return self.owners.astype(np.int64) * len(self.texts) + self.labels

    def _segment(self, pair: int, pixels: int) -> Segment:
        query, label = divmod(pair, len(self.texts))
        context, text = np.unravel_index(self.similarity[:, query].argmax(), self.similarity[:, query].shape)
        cosine = float(self.similarity[context, query, text])
        score = float(self.probabilities[query, label])
        return Segment(query, label, pixels, score, int(text), int(context), cosine)


def explainable(model: Predictor | nn.Module) -> MTACLIP:
    """The network of a predictor, or a network itself, if it can be explained.

    Raises:
        ValueError: the model has no text side, sees images through windows or in several versions, or is in training.
    """
    network = model.model if isinstance(model, Predictor) else model
    if not isinstance(network, MTACLIP):
        raise ValueError("the alignment is that of one view of an image: set TEST.AUG.ENABLED False.")
    if network.texts is None:
        raise ValueError(
            "the model has no text side (MODEL.MTACLIP.TEXT.ENABLED is False), so there is no alignment to see: take "
            "the config and the weights of an MTA-CLIP model."
        )
    if network.inference.window is not None:
        raise ValueError("the alignment is that of whole images: set TEST.SLIDING_WINDOW.ENABLED False.")
    if network.training:
        raise ValueError("the alignment is that of a model in eval mode: call its eval() first.")
    return network


def explain(model: Predictor | MTACLIP, image: ImageLike) -> Alignment:
    """Look at one image as a whole and compare its mask queries with the prompted texts.

    Args:
        model: a predictor, which resizes the image as in evaluation, or a model in eval mode, which sees it as it is.
        image: for a predictor, see there; for a model a (3, H, W) uint8 RGB tensor.

    Raises:
        ValueError: the model is not `explainable`, the image too narrow for it, or what it says is not finite; see also
            `Predictor`.
        OSError: the file cannot be read.
    """
    return _observe(model, image)[0]


def explain_with_truth(
    model: Predictor | MTACLIP, image: ImageLike, labels: NDArray[np.uint8]
) -> tuple[Alignment, NDArray[np.int64]]:
    """Explain an image and match its mask queries with the true classes.

    The matching is that of training, with the centres of all the pixels of a mask as its points.

    Args:
        model: see `explain`.
        image: see `explain`.
        labels: true train ids, 255 = ignore, uint8, of the image that is given.

    Returns:
        the alignment, and the class of every query, (Q,) int64, C for those that are matched with none.

    Raises:
        ValueError, OSError: see `explain`; or the classes of the result are not those of the truth.
    """
    if explainable(model).other_classes is not None:
        raise ValueError("masks are matched with trained classes: leave TEST.VOCABULARY empty.")
    alignment, predictions, network = _observe(model, image)
    num_classes = len(alignment.texts) - 1
    targets = SemanticTargets.from_labels(torch.from_numpy(labels)[None], num_classes, network.device)
    points = cell_centres(*predictions.mask_features.shape[-2:], predictions.mask_features)
    matched = network.criterion.matcher(predictions, targets, points[None, None])
    return alignment, matched[-1, 0].numpy()


@torch.no_grad()
def _observe(model: Predictor | MTACLIP, image: ImageLike) -> tuple[Alignment, Predictions, MTACLIP]:
    network = explainable(model)
    if isinstance(model, Predictor):
        pixels, context = model.prepare(image)["image"], model.autocast()
    else:
        pixels, context = image, nullcontext()
    height, width = pixels.shape[-2:]
    if min(height, width) < SMALLEST:
        raise ValueError(
            f"the model would see the picture at {width} x {height} pixels and needs {SMALLEST} each way: choose one "
            "that is less narrow."
        )
    with context:
        predictions = network.predict(network.normalise(pixels[None]), compare=True)
        logits = predictions.mask_logits()[0]
    return _alignment(network, pixels, predictions, logits.float()), predictions, network


def _alignment(model: MTACLIP, pixels: Tensor, predictions: Predictions, logits: Tensor) -> Alignment:
    similarity = predictions.similarity[-1]
    probabilities = model.classification(predictions.class_logits[-1], similarity)[0]
    if not all(values.isfinite().all() for values in (similarity, probabilities, logits)):
        raise ValueError("what the model says holds nan or infinite values; check its weights.")
    height, width = pixels.shape[-2:]
    labels, owners = _decide(Window(range(height), range(width), probabilities, logits))
    return Alignment(
        texts=model.class_texts,
        image=pixels.permute(1, 2, 0).cpu().numpy(),
        probabilities=probabilities.cpu().numpy(),
        similarity=similarity[:, 0].cpu().numpy(),
        masks=logits.sigmoid().cpu().numpy(),
        mask_embeddings=predictions.aligned_masks[-1, 0].cpu().numpy(),
        text_embeddings=predictions.aligned_texts[-1, 0].cpu().numpy(),
        labels=labels.cpu().numpy(),
        owners=owners.cpu().numpy(),
    )


def _decide(window: Window) -> tuple[Tensor, Tensor]:
    """Labels (H, W) uint8 and owners (H, W) int16, a few rows after the other."""
    height = len(window.rows)
    bands = [range(top, min(top + _BAND, height)) for top in range(0, height, _BAND)]
    decided = [_decide_band(window.probabilities, window.mask_probabilities(rows, window.columns)) for rows in bands]
    labels, owners = (torch.cat(parts) for parts in zip(*decided, strict=True))
    return labels, owners


def _decide_band(probabilities: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and owners of some rows from class probabilities (Q, C) and mask probabilities (Q, rows, W)."""
    labels = torch.einsum("qc,qhw->chw", probabilities, masks).argmax(dim=0)
    owners = (probabilities[:, labels] * masks).argmax(dim=0)
    return labels.to(torch.uint8), owners.to(torch.int16)
