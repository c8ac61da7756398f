"""The paper's "Mask-to-Text Contrastive Learning", with three ways to choose positives and negatives.

Letters: R predictions, n contexts, B images, Q mask queries, K texts.
"""

import math
from enum import Enum

import torch
from torch import Tensor, nn


class ContrastiveType(str, Enum):
    """Which of the n prompts of a query's own class attract it, and what happens to the others."""

    ALL_PROMPTS = "all_prompts"
    """Every prompt of the class is a positive (type 0 of the released code)."""
    BEST_IGNORE_OTHERS = "best_prompt_others_ignored"
    """The most similar one is; the others are left out of the denominator (type 1)."""
    BEST_REPEL_OTHERS = "best_prompt_others_negative"
    """The most similar one is; the others are negatives (type 2, the released choice)."""


class MaskTextContrastive(nn.Module):
    """Cross-entropy of a mask query against the n * K prompted texts, per query.

    Args:
        kind: name of a `ContrastiveType`.
        temperature: similarities are divided by it; 1.0 as released, where the loss cannot fall below about
            log(1 + (n * K - 1) * exp(-2)) because cosines are bounded.
        learn_temperature: make it a parameter (its logarithm, as in CLIP).

    Raises:
        ValueError: unknown kind, or a temperature that is not positive.
    """

    def __init__(self, kind: str, temperature: float = 1.0, learn_temperature: bool = False) -> None:
        super().__init__()
        kinds = [k.value for k in ContrastiveType]
        if kind not in kinds:
            raise ValueError(f"MODEL.MTACLIP.CONTRASTIVE.TYPE must be one of {kinds}, got {kind!r}.")
        if temperature <= 0:
            raise ValueError(f"MODEL.MTACLIP.CONTRASTIVE.TEMPERATURE must be positive, got {temperature}.")
        self.kind = ContrastiveType(kind)
        log_temperature = torch.tensor(math.log(temperature))
        if learn_temperature:
            self.log_temperature = nn.Parameter(log_temperature)
        else:
            self.register_buffer("log_temperature", log_temperature, persistent=False)

    def forward(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """Loss of every query.

        Args:
            similarity: (R, n, B, Q, K) cosines.
            labels: (R, B, Q) int64 assigned texts, K - 1 for no-object.

        Returns:
            (R, B, Q) float32.
        """
        logits = similarity.float() / self.log_temperature.exp()
        everything = logits.logsumexp(dim=(1, 4))
        index = labels[:, None, :, :, None].expand(-1, logits.shape[1], -1, -1, 1)
        own = logits.gather(4, index).squeeze(4)
        if self.kind is ContrastiveType.ALL_PROMPTS:
            return everything - own.mean(dim=1)
        best, chosen = own.max(dim=1)
        if self.kind is ContrastiveType.BEST_REPEL_OTHERS:
            return everything - best
        others = torch.ones_like(own, dtype=torch.bool).scatter(1, chosen[:, None], False)
        ignored = torch.zeros_like(logits, dtype=torch.bool).scatter(4, index, others[..., None])
        return logits.masked_fill(ignored, -torch.inf).logsumexp(dim=(1, 4)) - best
