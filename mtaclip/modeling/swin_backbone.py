"""Swin Transformers as Detectron2 backbones with maps at strides 4, 8, 16 and 32.

Blocks and patch merging are torchvision's own modules, which pad a map before they shift its windows, as the original
does. (timm's shift first and pad then, so that published weights would give other maps wherever a window is padded.)
Letters: B images, H, W input size in pixels, E channels of the first stage.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, SwinTransformer

from mtaclip.modeling.clip_backbone import STRIDES

_PATCH = 4


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
            [_PATCH, _PATCH], embed_dim, list(depths), list(heads), [window, window], stochastic_depth_prob=drop_path
        )
        for module in tower.modules():
            if isinstance(module, ShiftedWindowAttention):  # the index follows from the window: no checkpoint needs it
                module.register_buffer("relative_position_index", module.relative_position_index, persistent=False)
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
