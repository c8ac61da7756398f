"""Pixel decoder: deformable attention over strides 32, 16, 8 and one FPN step to stride 4 (Mask2Former's).

Letters: B images, H, W input size, d width, S pixels of the three levels together, M heads, P sampling points.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from mtaclip.modeling.layers import NUM_LEVELS, FeedForward, sine_position, xavier_normal_matrices
from mtaclip.modeling.recompute import recomputed
from mtaclip.ops import MSDeformAttn


class EncoderLayer(nn.Module):
    """Deformable attention and feed-forward, each with a residual and a LayerNorm after it."""

    def __init__(self, dim: int, heads: int, points: int, ffn_dim: int, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.attention = MSDeformAttn(dim, heads, NUM_LEVELS, points)
        self.attention_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, ffn_dim)
        self.ffn_norm = nn.LayerNorm(dim)

    def forward(
        self, pixels: Tensor, position: Tensor, reference_points: Tensor, shapes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """(B, S, d) pixels of all levels -> (B, S, d); `position` (S, d) is added where pixels are queries."""
        pixels = self.attention_norm(pixels + self.attention(pixels + position, pixels, reference_points, shapes))
        update = recomputed(self.ffn, pixels, owner=self.ffn, active=self.recompute, kept=())
        return self.ffn_norm(pixels + update)


class PixelDecoder(nn.Module):
    """From backbone maps to mask features and the decoder's memories.

    Args:
        input_shape: channels and stride of the backbone's maps by name; strides 4, 8, 16 and 32.
        dim: width d.
        layers: encoder layers.
        heads: attention heads.
        points: sampling points per head and level.
        ffn_dim: hidden width of the feed-forward blocks.
        norm_groups: groups of every GroupNorm.
        recompute: in training, compute what is cheap again in the backward pass instead of keeping it.
    """

    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        dim: int = 256,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        ffn_dim: int = 1024,
        norm_groups: int = 32,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        by_stride = {shape.stride: (name, shape.channels) for name, shape in input_shape.items()}
        if sorted(by_stride) != [4, 8, 16, 32]:
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.IN_FEATURES must name maps of strides 4, 8, 16 and 32, got "
                f"{ {name: shape.stride for name, shape in input_shape.items()} }."
            )
        if heads < 1 or dim % norm_groups or dim % heads:
            raise ValueError(
                f"MODEL.MTACLIP.HIDDEN_DIM {dim} must be a multiple of {norm_groups} and of {heads} heads."
            )
        self.fine_level = by_stride[4][0]
        self.coarse_levels = [by_stride[stride][0] for stride in (32, 16, 8)]
        self.input_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(by_stride[stride][1], dim, 1), nn.GroupNorm(norm_groups, dim))
            for stride in (32, 16, 8)
        )
        self.level_embedding = nn.Parameter(torch.empty(NUM_LEVELS, dim))
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, points, ffn_dim, recompute) for _ in range(layers))
        self.lateral = nn.Sequential(nn.Conv2d(by_stride[4][1], dim, 1, bias=False), nn.GroupNorm(norm_groups, dim))
        self.output = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.GroupNorm(norm_groups, dim), nn.ReLU(inplace=True)
        )
        self.mask_features = nn.Conv2d(dim, dim, 1)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        nn.init.normal_(self.level_embedding)
        xavier_normal_matrices(self.layers)
        for layer in self.layers:
            layer.attention.reset_parameters()
        for projection in self.input_projections:
            nn.init.xavier_uniform_(projection[0].weight)
            nn.init.zeros_(projection[0].bias)
        for conv in (self.lateral[0], self.output[0], self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Decode.

        Args:
            features: the backbone's maps by name, (B, C, H/4, W/4) .. (B, C, H/32, W/32).

        Returns:
            Mask features (B, d, H/4, W/4), and the memories (B, d, h, w) at strides 32, 16 and 8.
        """
        maps = [
            project(features[name]) for project, name in zip(self.input_projections, self.coarse_levels, strict=True)
        ]
        shapes = [tuple(m.shape[-2:]) for m in maps]
        pixels = torch.cat([m.flatten(2).mT for m in maps], dim=1)
        position = torch.cat(
            [
                sine_position(h, w, pixels.shape[-1], pixels) + self.level_embedding[level]
                for level, (h, w) in enumerate(shapes)
            ]
        )
        reference_points = torch.cat([cell_centres(h, w, pixels) for h, w in shapes])
        for layer in self.layers:
            pixels = layer(pixels, position, reference_points, shapes)
        memories = [
            level.mT.unflatten(2, shape)
            for level, shape in zip(pixels.split([h * w for h, w in shapes], dim=1), shapes, strict=True)
        ]
        fine = features[self.fine_level], memories[-1]
        return recomputed(self._fuse, *fine, owner=self, active=self.recompute), memories

    def _fuse(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """The backbone's (B, C, H/4, W/4) and the finest memory (B, d, H/8, W/8) -> mask features (B, d, H/4, W/4)."""
        lateral = self.lateral(fine)
        # Contiguous, since resizing is several times slower on a CPU with channels last.
        upsampled = F.interpolate(coarse.contiguous(), size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_features(self.output(lateral + upsampled))


def cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Centres of a grid's cells as (x, y) in 0..1, (height * width, 2) float32, on the device of `like`."""
    y = (torch.arange(height, device=like.device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=like.device, dtype=torch.float32) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
