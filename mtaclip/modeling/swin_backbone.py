"""Swin Transformers as Detectron2 backbones with maps at strides 4, 8, 16 and 32.

Blocks and patch merging are torchvision's own modules. Attention is not, for published weights belong to the original's
whatever the size of a map: torchvision does not shift the windows of a map that is only one window high or wide, and
timm pads a map after it has shifted it.

Letters: B images, H, W input size in pixels, E channels of the first stage; h, w size of a map in tokens, C its
channels, N tokens in a window.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, SwinTransformer, SwinTransformerBlock

from mtaclip.modeling.clip_backbone import STRIDES

_PATCH = 4
_APART = -100.0  # added to the logits of tokens that only a shift has brought into one window


class WindowAttention(ShiftedWindowAttention):
    """Attention in windows, shifted by half of one or not, as in the original whatever the size of the map.

    Parameters and their names are torchvision's. The table's index, which follows from the window, is not stored.
    """

    def define_relative_position_index(self) -> None:
        """Register the row of the bias table for every pair of tokens of a window."""
        super().define_relative_position_index()
        self.register_buffer("relative_position_index", self.relative_position_index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        height, width = x.shape[1:3]
        down, across = self.window_size
        x = F.pad(x, (0, 0, 0, -width % across, 0, -height % down))
        x = x.roll([-shift for shift in self.shift_size], dims=(1, 2))
        rows, columns = x.shape[1] // down, x.shape[2] // across
        windows = x.unflatten(2, (columns, across)).unflatten(1, (rows, down)).transpose(2, 3).flatten(3, 4)
        query, key, value = self.qkv(windows).unflatten(-1, (3, self.num_heads, -1)).movedim((4, 5), (0, 4))
        bias = self.get_relative_position_bias()
        if any(self.shift_size):
            bias = bias + self._mask(rows, columns, x)
        windows = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        windows = self.proj(windows.transpose(3, 4).flatten(4))
        x = windows.unflatten(3, (down, across)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return x.roll(self.shift_size, dims=(1, 2))[:, :height, :width]

    def _mask(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """What keeps tokens apart that are no neighbours in the map, (rows, columns, 1, N, N)."""
        down, across = (
            self._parts(count, window, shift, like)
            for count, window, shift in zip((rows, columns), self.window_size, self.shift_size, strict=True)
        )
        part = (2 * down[:, None, :, None] + across[None, :, None, :]).flatten(2)
        return (part[..., :, None] != part[..., None, :]).to(like.dtype)[:, :, None] * _APART

    @staticmethod
    def _parts(count: int, window: int, shift: int, like: Tensor) -> Tensor:
        """Along one axis, 1 for tokens that the shift has brought there from the other end, (count, window)."""
        index = torch.arange(count * window, device=like.device)
        return (index >= count * window - shift).long().view(count, window)


class SwinBackbone(Backbone):
    """A Swin Transformer with a LayerNorm on the map of every stage, as in Mask2Former.

    Args:
        embed_dim: channels E of the first stage; every further one has twice as many.
        depths: blocks of the four stages.
        heads: attention heads of the four stages.
        window: edge of a window in tokens.
        drop_path: share of the last block's residuals that training leaves out; it grows from 0 over the blocks.
    """

    def __init__(
        self, *, embed_dim: int, depths: Sequence[int], heads: Sequence[int], window: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if len(depths) != 4 or len(heads) != 4:
            raise ValueError(f"MODEL.SWIN.DEPTHS and HEADS are those of four stages, got {depths} and {heads}.")
        if any(embed_dim * 2**stage % count for stage, count in enumerate(heads)):
            raise ValueError(
                f"MODEL.SWIN.HEADS {list(heads)} must divide the stages' {embed_dim}, {2 * embed_dim}, ... channels "
                "(MODEL.SWIN.EMBED_DIM)."
            )
        tower = SwinTransformer(
            [_PATCH, _PATCH],
            embed_dim,
            list(depths),
            list(heads),
            [window, window],
            stochastic_depth_prob=drop_path,
            block=partial(SwinTransformerBlock, attn_layer=WindowAttention),
        )
        self.patches = tower.features[0]
        self.stages = nn.ModuleList(tower.features[1::2])
        self.merges = nn.ModuleList(tower.features[2::2])
        self.channels = {name: embed_dim * 2**stage for stage, name in enumerate(STRIDES)}
        self.norms = nn.ModuleDict({name: nn.LayerNorm(channels) for name, channels in self.channels.items()})

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every map."""
        return {name: ShapeSpec(channels=c, stride=STRIDES[name]) for name, c in self.channels.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps.

        Args:
            images: (B, 3, H, W) normalised RGB.

        Returns:
            "res2" .. "res5": (B, E, H/4, W/4) .. (B, 8 E, H/32, W/32), every division rounded up.
        """
        height, width = images.shape[-2:]
        x = self.patches(F.pad(images, (0, -width % _PATCH, 0, -height % _PATCH)))
        features = {}
        for index, (name, stage) in enumerate(zip(STRIDES, self.stages, strict=True)):
            x = stage(x if index == 0 else self.merges[index - 1](x))
            features[name] = self.norms[name](x).permute(0, 3, 1, 2)
        return features


@BACKBONE_REGISTRY.register()
def build_swin_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """The Swin Transformer of MODEL.SWIN, with random weights."""
    swin = cfg.MODEL.SWIN
    return SwinBackbone(
        embed_dim=swin.EMBED_DIM, depths=swin.DEPTHS, heads=swin.HEADS, window=swin.WINDOW, drop_path=swin.DROP_PATH
    )
