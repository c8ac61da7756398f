"""The paper's "Mask-Text Prompt Learning": class texts read by CLIP's frozen text tower behind learned contexts.

Letters: n contexts (prompts) of c learned vectors, K texts (C classes and the no-object text), t tokens of a class
text, W width of the text tower, D width of CLIP's embedding space.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


def tokenize(texts: Sequence[str], length: int) -> Tensor:
    """CLIP's byte-pair tokens of every text, (K, length) int64: start, text, end, zeros.

    Raises:
        ValueError: a text has more than length - 2 tokens.
    """
    tokenizer = SimpleTokenizer()
    tokens = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        ids = [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        if len(ids) > length:
            raise ValueError(
                f"Class text {text!r} has {len(ids) - 2} tokens, the budget is {length - 2}: shorten it in the "
                f"vocabulary or set MODEL.MTACLIP.TEXT.TOKEN_LENGTH to at least {len(ids)}."
            )
        row[: len(ids)] = torch.tensor(ids)
    return tokens


class CLIPTextEncoder(nn.Module):
    """CLIP's text tower, frozen, reading [start, context, class tokens, end].

    Args:
        clip: an open_clip CLIP model; its text modules are taken over.
        length: longest sequence, contexts included; CLIP's position table is cut to it.
    """

    def __init__(self, clip: nn.Module, length: int) -> None:
        super().__init__()
        blocks = getattr(getattr(clip, "transformer", None), "resblocks", [None])
        if not isinstance(getattr(clip, "text_projection", None), Tensor) or not all(
            isinstance(block, ResidualAttentionBlock) for block in blocks
        ):
            raise ValueError("MODEL.CLIP.ARCH: only models with OpenAI's text tower can read prompts.")
        table = clip.positional_embedding
        if length > len(table):
            raise ValueError(
                f"MODEL.MTACLIP.TEXT: CONTEXT_LENGTH + TOKEN_LENGTH is {length}, CLIP's text tower reads {len(table)}."
            )
        self.token_embedding = clip.token_embedding
        self.positional_embedding = nn.Parameter(table.detach()[:length].clone())
        self.transformer = clip.transformer
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.requires_grad_(False)

    @property
    def width(self) -> int:
        """Width W of the token embeddings."""
        return self.token_embedding.embedding_dim

    @property
    def embed_dim(self) -> int:
        """Width D of the text embeddings."""
        return self.text_projection.shape[1]

    def forward(self, contexts: Tensor, tokens: Tensor) -> Tensor:
        """Embed every text behind every context.

        Args:
            contexts: (n, c, W) learned vectors, put between the start token and the class tokens.
            tokens: (K, t) ids from `tokenize`; the end token has the highest id.

        Returns:
            (n, K, D) embeddings, not normalised, read at the end token.
        """
        num_contexts, context_length, _ = contexts.shape
        start = self.token_embedding(tokens[:1, :1]).expand(num_contexts, -1, -1)
        prefix = torch.cat([start, contexts], dim=1) + self.positional_embedding[: 1 + context_length]
        words = (
            self.token_embedding(tokens[:, 1:]) + self.positional_embedding[1 + context_length :][: tokens.shape[1] - 1]
        )
        words = words.expand(num_contexts, -1, -1, -1)
        for block in self.transformer.resblocks:
            prefix, words = _causal_block(block, prefix, words)
        end = tokens.argmax(dim=-1) - 1
        ends = words[:, torch.arange(len(tokens), device=words.device), end]
        return self.ln_final(ends) @ self.text_projection


def _causal_block(block: nn.Module, prefix: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """One block of CLIP's text tower over sequences that begin alike.

    Attention is causal, so what follows a prefix does not change it: it is computed once per context, and every text
    only looks back at it.

    Args:
        block: an `open_clip.transformer.ResidualAttentionBlock`.
        prefix: (n, p, W) the start token and a context.
        words: (n, K, t, W) what follows it in every text.

    Returns:
        Both, one block later.
    """
    attention = block.attn
    heads = attention.num_heads

    def project(x: Tensor) -> tuple[Tensor, ...]:
        x = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        return tuple(part.unflatten(-1, (heads, -1)).transpose(-2, -3) for part in x.chunk(3, dim=-1))

    def residual(x: Tensor, attended: Tensor) -> Tensor:
        x = x + block.ls_1(attention.out_proj(attended.transpose(-2, -3).flatten(-2)))
        return x + block.ls_2(block.mlp(block.ln_2(x)))

    query, key, value = project(prefix)
    attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    own_query, own_key, own_value = project(words)
    texts, length = words.shape[1:3]
    key, value = (
        torch.cat([shared[:, None].expand(-1, texts, -1, -1, -1), own], dim=3)
        for shared, own in ((key, own_key), (value, own_value))
    )
    allowed = torch.ones(length, key.shape[3], dtype=torch.bool, device=key.device).tril(prefix.shape[1])
    own_attended = F.scaled_dot_product_attention(own_query, key, value, attn_mask=allowed)
    return residual(prefix, attended), residual(words, own_attended)


class PromptedTexts(nn.Module):
    """Learned contexts and the class texts they introduce.

    In training the embeddings are computed at every call, with gradients into the contexts. In eval mode without
    gradients they are computed once, in float32, and kept until `train()`, `eval()`, a move to another device,
    a loaded state or another vocabulary.

    Args:
        encoder: the frozen text tower.
        texts: the K class texts, the no-object text last.
        num_contexts: number n of contexts.
        context_length: learned vectors c in a context.
        token_length: tokens t of a class text, start and end included.
    """

    def __init__(
        self,
        encoder: CLIPTextEncoder,
        texts: Sequence[str],
        *,
        num_contexts: int,
        context_length: int,
        token_length: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.token_length = token_length
        self.contexts = nn.Parameter(torch.empty(num_contexts, context_length, encoder.width))
        nn.init.trunc_normal_(self.contexts)
        self.set_texts(texts)

    def set_texts(self, texts: Sequence[str]) -> None:
        """Read other class texts from now on.

        Args:
            texts: the K class texts, the no-object text last.

        Raises:
            ValueError: a text is too long.
        """
        tokens = tokenize(texts, self.token_length)
        longest = int(tokens.argmax(dim=1).max()) + 1  # what follows every end token changes nothing
        self.register_buffer("tokens", tokens[:, :longest].to(self.contexts.device), persistent=False)
        self.class_texts = tuple(texts)
        self._cached: Tensor | None = None

    def train(self, mode: bool = True) -> "PromptedTexts":
        """Switch the mode and forget the kept embeddings."""
        self._cached = None
        return super().train(mode)

    def _apply(self, fn, *args, **kwargs) -> "PromptedTexts":
        self._cached = None
        return super()._apply(fn, *args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._cached = None
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self) -> Tensor:
        """Text embeddings of every context and class, (n, K, D), not normalised."""
        if self.training or torch.is_grad_enabled():
            return self.encoder(self.contexts, self.tokens)
        if self._cached is None:
            with torch.autocast(self.contexts.device.type, enabled=False):
                self._cached = self.encoder(self.contexts, self.tokens)
        return self._cached
