"""The paper's "Mask-Text Prompt Learning": class texts read by CLIP's frozen text tower behind learned contexts.

Letters: n contexts (prompts) of c learned vectors, K texts (C classes and the no-object text), N texts with all
synonyms of the classes, P prompts of a class (n, or more where synonyms are alternatives), t tokens of a class text,
W width of the text tower, D width of CLIP's embedding space.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

SYNONYMS = ("average", "alternatives")


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
                f"vocabulary, or train with MODEL.MTACLIP.TEXT.TOKEN_LENGTH {len(ids)} or more."
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


@dataclass(frozen=True, eq=False)
class Synonyms:
    """What becomes of the texts of a class that has several.

    Attributes:
        counts: how many texts each of the K classes has.
        kind: "average" makes them one: their mean direction, as CLIP ensembles prompts (Radford et al. 2021), with the
            mean of their lengths, because the decoder reads embeddings that are not normalised. "alternatives" makes
            each a prompt of its own, n * S of every class where S is the largest number of texts; classes with fewer
            repeat theirs. Where no class has more than one, nothing changes.

    Raises:
        ValueError: another kind.
    """

    counts: tuple[int, ...]
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in SYNONYMS:
            raise ValueError(f"MODEL.MTACLIP.TEXT.SYNONYMS must be one of {SYNONYMS}, got {self.kind!r}.")

    @property
    def alternatives(self) -> int:
        """Prompts of a class per context, S where synonyms are alternatives."""
        return max(self.counts) if self.kind == "alternatives" else 1

    def combine(self, embeddings: Tensor) -> Tensor:
        """From the embeddings of all texts, (n, N, D), to those of the prompts of each class, (P, K, D).

        Prompts come in the order of the contexts, for the first text of every class, then for the second, and so on.
        """
        if max(self.counts) == 1:
            return embeddings
        classes = embeddings.split(self.counts, dim=1)
        if self.kind == "average":
            return torch.stack([_mean(texts) for texts in classes], dim=1)
        chosen = (
            torch.stack([texts[:, number % texts.shape[1]] for texts in classes], dim=1)
            for number in range(self.alternatives)
        )
        return torch.cat(list(chosen))


def _mean(texts: Tensor) -> Tensor:
    """Mean direction and mean length of the texts of a class, (n, s, D) -> (n, D)."""
    if texts.shape[1] == 1:
        return texts[:, 0]
    direction = F.normalize(F.normalize(texts, dim=-1).mean(dim=1), dim=-1)
    return direction * texts.norm(dim=-1).mean(dim=1)[:, None]


class PromptedTexts(nn.Module):
    """Learned contexts and the class texts they introduce.

    In training the embeddings are computed at every call, with gradients into the contexts. In eval mode without
    gradients they are computed once, in float32, and kept until `train()`, `eval()`, a move to another device,
    a loaded state or another vocabulary.

    Args:
        encoder: the frozen text tower.
        texts: of each of the K classes its text or its texts, the no-object class last.
        num_contexts: number n of contexts.
        context_length: learned vectors c in a context.
        token_length: tokens t of a class text, start and end included.
        synonyms: what becomes of the texts of a class that has several, see `Synonyms`.

    Raises:
        ValueError: there is no context, a context is empty, a text is too long, or see `Synonyms`.
    """

    def __init__(
        self,
        encoder: CLIPTextEncoder,
        texts: Sequence[str | Sequence[str]],
        *,
        num_contexts: int,
        context_length: int,
        token_length: int,
        synonyms: str = "average",
    ) -> None:
        super().__init__()
        for key, value in (("NUM_CONTEXTS", num_contexts), ("CONTEXT_LENGTH", context_length)):
            if value < 1:
                raise ValueError(f"MODEL.MTACLIP.TEXT.{key} must be 1 or more, got {value}.")
        self.encoder = encoder
        self.token_length = token_length
        self._kind = synonyms
        self.contexts = nn.Parameter(torch.empty(num_contexts, context_length, encoder.width))
        nn.init.trunc_normal_(self.contexts)
        self.set_texts(texts)

    def set_texts(self, texts: Sequence[str | Sequence[str]]) -> None:
        """Read other class texts from now on.

        Args:
            texts: as many as the model was built for; see the class.

        Raises:
            ValueError: a text is too long.
        """
        self.classes = tuple((text,) if isinstance(text, str) else tuple(text) for text in texts)
        tokens, self.synonyms = self.tokenize(self.classes)
        self.register_buffer("tokens", tokens, persistent=False)
        self._cached: dict[Synonyms, Tensor] = {}

    @property
    def class_texts(self) -> tuple[str, ...]:
        """The first text of each of the K classes."""
        return tuple(texts[0] for texts in self.classes)

    @property
    def num_prompts(self) -> int:
        """Number P of prompts of a class."""
        return len(self.contexts) * self.synonyms.alternatives

    def tokenize(self, classes: Sequence[Sequence[str]]) -> tuple[Tensor, Synonyms]:
        """What `embed` reads of classes with one or more texts each.

        Raises:
            ValueError: a text is too long.
        """
        tokens = tokenize([text for texts in classes for text in texts], self.token_length)
        longest = int(tokens.argmax(dim=1).max()) + 1  # what follows every end token changes nothing
        return tokens[:, :longest].to(self.contexts.device), Synonyms(tuple(map(len, classes)), self._kind)

    def train(self, mode: bool = True) -> "PromptedTexts":
        """Switch the mode and forget the kept embeddings."""
        self._cached = {}
        return super().train(mode)

    def _apply(self, fn, *args, **kwargs) -> "PromptedTexts":
        self._cached = {}
        return super()._apply(fn, *args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._cached = {}
        super()._load_from_state_dict(*args, **kwargs)

    def forward(self) -> Tensor:
        """Text embeddings of every prompt and class, (P, K, D), not normalised."""
        return self.embed(self.tokens, self.synonyms)

    def embed(self, tokens: Tensor, synonyms: Synonyms) -> Tensor:
        """Embed classes behind the learned contexts; kept, as the model's own are, for as long as these.

        Args:
            tokens: of all their texts, (N, t).
            synonyms: which of them are of one class; what is kept is found by this object.

        Returns:
            (P, K, D), not normalised.
        """
        if self.training or torch.is_grad_enabled():
            return synonyms.combine(self.encoder(self.contexts, tokens))
        if synonyms not in self._cached:
            with torch.autocast(self.contexts.device.type, enabled=False):
                self._cached[synonyms] = synonyms.combine(self.encoder(self.contexts, tokens))
        return self._cached[synonyms]
