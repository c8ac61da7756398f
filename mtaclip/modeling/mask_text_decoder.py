"""The paper's "Mask-Text Decoder": mask queries and text queries look at the image and at each other.

Letters: B images, Q mask queries, C classes, K = C + 1 texts (the last is the no-object text), n contexts (or prompts
of a class, where it has several for each), T = Q + n*K tokens, d decoder width, D CLIP embedding width, L layers,
R recorded predictions (one after each layer, and before them, where asked for, one of the initial tokens).

Order of the tokens: the Q mask queries, then the K texts of context 0, the K texts of context 1, and so on.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip.modeling.layers import (
    MLP,
    NUM_LEVELS,
    FeedForward,
    MultiheadAttention,
    sine_position,
    xavier_normal_matrices,
)
from mtaclip.structures import Predictions


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention and feed-forward, each with a residual and a LayerNorm after it."""

    def __init__(self, dim: int, heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.cross_attention = MultiheadAttention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.self_attention = MultiheadAttention(dim, heads)
        self.self_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, position: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        """One layer.

        Args:
            tokens: (B, T, d).
            position: (T, d), added to queries and self-attention keys, never to values.
            key: (B, h*w, d) image tokens with their position.
            value: (B, h*w, d) image tokens without it.
            allowed: (B, T, h*w) bool, True where a token may look.

        Returns:
            (B, T, d).
        """
        tokens = self.cross_norm(tokens + self.cross_attention(tokens + position, key, value, allowed))
        placed = tokens + position
        tokens = self.self_norm(tokens + self.self_attention(placed, placed, tokens))
        return self.ffn_norm(tokens + self.ffn(tokens))


class TextAlignment(nn.Module):
    """Projects texts into the decoder and decoded tokens back into CLIP's space, where they are compared.

    Args:
        dim: decoder width d.
        text_dim: CLIP embedding width D.
    """

    def __init__(self, dim: int, text_dim: int) -> None:
        super().__init__()
        self.text_in = nn.Linear(text_dim, dim)
        self.token_norm = nn.LayerNorm(dim)
        self.text_out = nn.Linear(dim, text_dim)
        self.text_out_norm = nn.LayerNorm(text_dim)
        self.gamma = nn.Parameter(torch.full((text_dim,), 1e-4))
        self.mask_out = nn.Linear(dim, text_dim)

    def embed(self, mask_queries: Tensor, text: Tensor) -> Tensor:
        """Initial tokens: mask queries (Q, d) and text embeddings (n, K, D) -> (T, d), normalised together."""
        return self.token_norm(torch.cat([mask_queries, self.text_in(text).flatten(0, 1)]))

    def forward(self, mask_tokens: Tensor, text_tokens: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Mask queries and prompted texts in CLIP's space.

        The text embeddings are refined by what the text tokens saw: text + gamma * LN(Linear(tokens)).

        Args:
            mask_tokens: (R, B, Q, d) normalised decoder tokens.
            text_tokens: (R, B, n*K, d) normalised decoder tokens.
            text: (n, K, D) embeddings of the text tower.

        Returns:
            (R, B, Q, D) and (R, B, n, K, D), both of length 1 along D, float32.
        """
        refined = self.gamma * self.text_out_norm(self.text_out(text_tokens))
        texts = text.float() + refined.float().unflatten(2, text.shape[:2])
        return F.normalize(self.mask_out(mask_tokens).float(), dim=-1), F.normalize(texts, dim=-1)


def cosines(masks: Tensor, texts: Tensor) -> Tensor:
    """Cosine similarity of every mask query with every prompted text; there is no temperature here.

    Args:
        masks: (R, B, Q, D) of length 1.
        texts: (R, B, n, K, D) of length 1.

    Returns:
        (R, n, B, Q, K) in -1..1, float32.
    """
    with torch.autocast(masks.device.type, enabled=False):
        return torch.einsum("rbqe,rbnke->rnbqk", masks, texts)


class MaskTextDecoder(nn.Module):
    """L layers of masked attention over mask and text queries, with a prediction after each.

    Args:
        num_classes: number C of classes.
        num_queries: number Q of mask queries.
        dim: width d.
        layers: number L of layers.
        heads: attention heads.
        ffn_dim: hidden width of the feed-forward blocks.
        num_contexts: number n of contexts, or prompts of a class; 0 leaves the text side out (Mask2Former's decoder).
        text_dim: CLIP embedding width D; unused without contexts.
        predict_initial: record a prediction of the initial tokens as well.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        num_queries: int = 100,
        dim: int = 256,
        layers: int = 9,
        heads: int = 8,
        ffn_dim: int = 2048,
        num_contexts: int = 0,
        text_dim: int = 0,
        predict_initial: bool = False,
    ) -> None:
        super().__init__()
        num_texts = num_contexts * (num_classes + 1)
        self.num_queries = num_queries
        self.predict_initial = predict_initial
        self.query_content = nn.Parameter(torch.randn(num_queries, dim))
        self.query_position = nn.Parameter(torch.randn(num_queries + num_texts, dim))
        self.level_embedding = nn.Parameter(torch.randn(NUM_LEVELS, dim))
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, ffn_dim) for _ in range(layers))
        self.output_norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, num_classes + 1)
        self.mask_head = MLP(dim, layers=3)
        self.alignment = TextAlignment(dim, text_dim) if num_contexts else None
        xavier_normal_matrices(self.layers)

    def forward(
        self,
        memories: Sequence[Tensor],
        mask_features: Tensor,
        text: Tensor | None = None,
        *,
        compare: bool = False,
    ) -> Predictions:
        """Decode.

        Args:
            memories: the image at strides 32, 16 and 8, each (B, d, h, w).
            mask_features: (B, d, H/4, W/4).
            text: (n, K, D) prompted text embeddings; None without a text side.
            compare: give similarities in eval mode too.

        Returns:
            In training every layer's prediction with similarities; in eval mode the last layer's, without unless asked.
        """
        sizes = [tuple(m.shape[-2:]) for m in memories]
        keys, values = zip(*(self._image_tokens(level, m) for level, m in enumerate(memories)), strict=True)
        shrunk = [shrink(mask_features, size) for size in sizes]

        tokens = self.query_content if self.alignment is None else self.alignment.embed(self.query_content, text)
        tokens = tokens.expand(mask_features.shape[0], -1, -1)
        recorded = [self.output_norm(tokens)]
        for index, layer in enumerate(self.layers):
            level = index % NUM_LEVELS
            allowed = self._attention_mask(recorded[-1], shrunk[level])
            tokens = layer(tokens, self.query_position, keys[level], values[level], allowed)
            recorded.append(self.output_norm(tokens))
        return self._predict(self._select(recorded), mask_features, text, compare)

    def _select(self, recorded: list[Tensor]) -> Tensor:
        """The recorded steps that anybody reads, (R, B, T, d)."""
        if not self.training:
            return recorded[-1][None]
        return torch.stack(recorded if self.predict_initial else recorded[1:])

    def _image_tokens(self, level: int, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, h*w, d) of one memory; the level's embedding is in both, the position in the keys."""
        height, width = memory.shape[-2:]
        value = memory.flatten(2).mT + self.level_embedding[level]
        return value + sine_position(height, width, value.shape[-1], value), value

    @torch.no_grad()
    def _attention_mask(self, normed: Tensor, features: Tensor) -> Tensor:
        """Where each token may look, (B, T, h*w) bool: inside its own mask, or everywhere if that is empty.

        Args:
            normed: (B, T, d) normalised tokens.
            features: (B, d, h, w) mask features, already shrunk to the level.
        """
        inside = self.mask_head(normed) @ features.flatten(2) >= 0
        return inside | ~inside.any(dim=-1, keepdim=True)

    def _predict(self, normed: Tensor, mask_features: Tensor, text: Tensor | None, compare: bool) -> Predictions:
        masks, texts = normed[:, :, : self.num_queries], normed[:, :, self.num_queries :]
        predictions = Predictions(self.class_head(masks), self.mask_head(masks), mask_features)
        if self.alignment is not None and (self.training or compare):
            predictions.aligned_masks, predictions.aligned_texts = self.alignment(masks, texts, text)
            predictions.similarity = cosines(predictions.aligned_masks, predictions.aligned_texts)
        return predictions


@torch.no_grad()
def shrink(mask_features: Tensor, size: tuple[int, int]) -> Tensor:
    """Mask features at another size, (B, d, h, w).

    Resizing is linear, so the masks of resized features are the resized masks: one small map per level replaces
    T full masks per layer.
    """
    return F.interpolate(mask_features, size=size, mode="bilinear", align_corners=False)
