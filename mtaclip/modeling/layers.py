"""Small parts that the pixel decoder and the mask-text decoder share.

Letters: B batch, T query tokens, S memory tokens, d width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_LEVELS = 3
"""Levels that the pixel decoder refines and the mask-text decoder looks at: strides 32, 16 and 8, in this order."""


def sine_position(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """Sine position encoding of a grid (DETR's, normalised to 2 pi with 1-based coordinates).

    Args:
        height: rows of the grid.
        width: columns of the grid.
        dim: channels d; the first half encodes y, the second x, sine and cosine taking turns.
        like: tensor whose device the result gets.

    Returns:
        (height * width, d) float32.
    """
    features = dim // 2
    channel = torch.arange(features, device=like.device, dtype=torch.float32)
    wavelength = 10000 ** (2 * (channel // 2) / features)

    def encode(size: int) -> Tensor:
        position = torch.arange(1, size + 1, device=like.device, dtype=torch.float32) / (size + 1e-6) * (2 * math.pi)
        angle = position[:, None] / wavelength
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=2).flatten(1)

    y, x = encode(height), encode(width)
    grid = torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], dim=2)
    return grid.flatten(0, 1)


class MultiheadAttention(nn.Module):
    """Multi-head attention whose mask is shared by the heads, so it is never repeated for them.

    Args:
        dim: width d of queries, keys, values and result.
        heads: number of heads.
    """

    def __init__(self, dim: int, heads: int) -> None:
        if heads < 1 or dim % heads:
            raise ValueError(f"MODEL.MTACLIP.DECODER.HEADS is {heads}, which does not divide HIDDEN_DIM {dim}.")
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, T, d).
            key: (B, S, d).
            value: (B, S, d).
            allowed: (B, T, S) bool, True where a query may look; None lets it look everywhere.

        Returns:
            (B, T, d).
        """
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if allowed is None else allowed[:, None]
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    """Linear, ReLU, Linear.

    Args:
        dim: width d of input and output.
        hidden: width in between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        expand, activate, reduce = self
        # Of two dimensions, what `expand` returns is no view: working on it in place costs no copies of gradients.
        return reduce(activate(expand(x.flatten(0, -2)))).view(x.shape)


class MLP(nn.Sequential):
    """Linear layers of one width with ReLU in between.

    Args:
        dim: width d everywhere.
        layers: number of linear layers.
    """

    def __init__(self, dim: int, layers: int) -> None:
        modules: list[nn.Module] = []
        for _ in range(layers - 1):
            modules += [nn.Linear(dim, dim), nn.ReLU()]
        super().__init__(*modules, nn.Linear(dim, dim))


def xavier_normal_matrices(module: nn.Module) -> None:
    """Initialise every parameter of two or more dimensions with Xavier's normal distribution."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)
