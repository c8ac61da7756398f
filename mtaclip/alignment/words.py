"""The words of CLIP's vocabulary that learned context vectors are closest to.

Letters: n contexts of c learned vectors, V tokens of the vocabulary, W width of the token embeddings.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer

from mtaclip.modeling.text_encoder import PromptedTexts

_END_OF_WORD = "</w>"


@dataclass(frozen=True)
class Word:
    """A token of the vocabulary near a context vector.

    Attributes:
        text: as written, bytes that are no letter as \\x..; a dash at the end marks what only begins a word.
        similarity: cosine of the two embeddings.
    """

    text: str
    similarity: float


@torch.no_grad()
def nearest_words(texts: PromptedTexts, count: int = 5) -> list[list[list[Word]]]:
    """Compare every context vector with the embedding of every token but those for start and end.

    Args:
        texts: prompted texts with the text tower whose token embeddings are compared.
        count: words per vector.

    Returns:
        for each of the n contexts, for each of its c vectors, the nearest words, the nearest first.
    """
    tokenizer = SimpleTokenizer()
    special = torch.tensor([tokenizer.sot_token_id, tokenizer.eot_token_id], device=texts.contexts.device)
    table = F.normalize(texts.encoder.token_embedding.weight.float(), dim=-1)
    cosines = F.normalize(texts.contexts.float(), dim=-1) @ table.mT
    best, tokens = cosines.index_fill(-1, special, -torch.inf).topk(count, dim=-1)
    return [
        [
            [Word(_written(tokenizer, token), cosine) for token, cosine in zip(*vector, strict=True)]
            for vector in zip(*context, strict=True)
        ]
        for context in zip(tokens.tolist(), best.tolist(), strict=True)
    ]


def _written(tokenizer: SimpleTokenizer, token: int) -> str:
    symbols = tokenizer.decoder[token].removesuffix(_END_OF_WORD)
    text = bytes(tokenizer.byte_decoder[symbol] for symbol in symbols).decode("utf-8", errors="backslashreplace")
    return text if tokenizer.decoder[token].endswith(_END_OF_WORD) else f"{text}-"
