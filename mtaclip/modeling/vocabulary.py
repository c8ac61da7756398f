"""Other classes than the trained ones: masks against texts that were not there in training.

Letters: R predictions, B images, Q mask queries, K trained texts with the no-object text, P their prompts, M classes,
N of them that were not trained, D width of CLIP's embedding space.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip.data.vocabulary import same_text
from mtaclip.modeling.mask_text_decoder import cosines
from mtaclip.modeling.text_encoder import PromptedTexts
from mtaclip.structures import Predictions


class OtherClasses(nn.Module):
    """The classes that masks are compared with instead of the trained ones.

    The decoder works with the trained texts, for which it has learned positions; only what its masks are compared with
    changes. A class whose texts, or whose only text, are those of a trained class, or the first of them, has the
    embeddings of that class as each image refines them. Any other has those of the text tower behind the learned
    contexts, which no image refines. The no-object text stays, as the last.

    Args:
        classes: of each of the M classes its texts.
        texts: the trained ones, which stay as they are.

    Raises:
        ValueError: a text is too long.
    """

    def __init__(self, classes: Sequence[Sequence[str]], texts: PromptedTexts) -> None:
        super().__init__()
        self.names = tuple(group[0] for group in classes)
        trained: dict[tuple[str, ...], int] = {}
        for index, group in enumerate(texts.classes[:-1]):
            trained |= {_key(group[:1]): index, _key(group): index}
        new = [group for group in classes if _key(group) not in trained]
        numbers = iter(range(len(texts.classes), len(texts.classes) + len(new)))
        chosen = [trained[_key(group)] if _key(group) in trained else next(numbers) for group in classes]
        self.register_buffer("chosen", torch.tensor([*chosen, len(texts.classes) - 1]), persistent=False)
        tokens, self.synonyms = texts.tokenize(new) if new else (None, None)
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, predictions: Predictions, texts: PromptedTexts) -> Predictions:
        """Compare masks with the M classes and the no-object text.

        Args:
            predictions: with similarities to the trained texts.
            texts: the trained ones.

        Returns:
            the same with texts (R, B, P', M + 1, D) and similarities (R, P', B, Q, M + 1), where P' is larger than P if
            a new class has more synonyms than any trained one; the class logits are still those of the trained classes.
        """
        aligned, similarity = predictions.aligned_texts, predictions.similarity
        if self.tokens is not None:
            new = F.normalize(texts.embed(self.tokens, self.synonyms).float(), dim=-1)
            prompts = max(aligned.shape[2], len(new))
            new = _repeated(new, prompts, dim=0).expand(*aligned.shape[:2], -1, -1, -1)
            aligned = torch.cat([_repeated(aligned, prompts, dim=2), new], dim=3)
            compared = cosines(predictions.aligned_masks, new)
            similarity = torch.cat([_repeated(similarity, prompts, dim=1), compared], dim=-1)
        return replace(
            predictions,
            aligned_texts=aligned.index_select(3, self.chosen),
            similarity=similarity.index_select(-1, self.chosen),
        )


def _key(texts: Sequence[str]) -> tuple[str, ...]:
    """Equal for classes that mean the same, in whatever order their texts are."""
    return tuple(sorted(map(same_text, texts)))


def _repeated(prompts: Tensor, count: int, dim: int) -> Tensor:
    """The same prompts again until there are `count`, which changes no class's largest similarity."""
    size = prompts.shape[dim]
    times = [1] * prompts.dim()
    times[dim] = -(-count // size)
    return prompts if size == count else prompts.repeat(times).narrow(dim, 0, count)
