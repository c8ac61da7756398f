"""Which class a mask query has: by the linear head, by the class texts, or by both.

Letters: n contexts, B images, Q mask queries, C classes, K = C + 1 texts, the last of them for no object.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("linear", "text", "ensemble")


@dataclass(frozen=True)
class MaskClassification:
    """Class probabilities of mask queries.

    Attributes:
        kind: "linear" takes the linear head, as the released code does; "text" the cosine similarity with the class
            texts, of each class with the context that fits best; "ensemble" the geometric mean of both.
        temperature: cosines are divided by it before the softmax.
        text_weight: share of the text in the ensemble, 0 to 1.

    Raises:
        ValueError: another kind, a temperature that is not positive, or a share outside 0 .. 1.
    """

    kind: str = "linear"
    temperature: float = 1.0
    text_weight: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"TEST.CLASSIFIER must be one of {KINDS}, got {self.kind!r}.")
        if not self.temperature > 0:
            raise ValueError(f"TEST.TEXT_TEMPERATURE must be positive, got {self.temperature}.")
        if not 0 <= self.text_weight <= 1:
            raise ValueError(f"TEST.TEXT_WEIGHT must be between 0 and 1, got {self.text_weight}.")

    @property
    def needs_text(self) -> bool:
        """Whether the similarity is read."""
        return self.kind != "linear"

    def __call__(self, class_logits: Tensor, similarity: Tensor | None) -> Tensor:
        """Probabilities of the classes; what they miss to 1 is that of no object.

        Args:
            class_logits: (B, Q, K); "text" does not read them.
            similarity: (n, B, Q, K) cosines; None if they are not needed.

        Returns:
            (B, Q, C) float32.
        """
        logits = class_logits.float()
        if self.needs_text:
            text = (similarity.float().amax(dim=0) / self.temperature).log_softmax(dim=-1)
            logits = text if self.kind == "text" else torch.lerp(logits.log_softmax(dim=-1), text, self.text_weight)
        return logits.softmax(dim=-1)[..., :-1]
