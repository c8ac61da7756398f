"""What the model says, in the form that losses and inference read.

Letters: R recorded predictions (one after each decoder layer, and before them, where asked for, one of the initial
queries), B images, Q mask queries, K texts (C classes and the no-object text), n contexts, d decoder width, D width of
CLIP's embedding space, H, W input size in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Predictions:
    """What the decoder says, one row per recorded prediction; the last row is the last layer's.

    Masks are kept as embeddings: a mask's logits are the dot products of its embedding with the mask features, and
    most masks are only ever needed at some pixels.

    Attributes:
        class_logits: (R, B, Q, K), the no-object class last.
        mask_embeddings: (R, B, Q, d).
        mask_features: (B, d, H/4, W/4).
        similarity: (R, n, B, Q, K) cosines between mask queries and prompted texts; None without a text side or
            where nobody asked.
        aligned_masks: (R, B, Q, D) mask queries in CLIP's space, of length 1; None where there is no similarity.
        aligned_texts: (R, B, n, K, D) prompted texts as the image refined them, likewise.
    """

    class_logits: Tensor
    mask_embeddings: Tensor
    mask_features: Tensor
    similarity: Tensor | None = None
    aligned_masks: Tensor | None = None
    aligned_texts: Tensor | None = None

    def mask_logits(self, index: int = -1) -> Tensor:
        """Mask logits of one recorded prediction, (B, Q, H/4, W/4)."""
        return torch.einsum("bqd,bdhw->bqhw", self.mask_embeddings[index], self.mask_features)
