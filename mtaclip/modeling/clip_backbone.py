"""CLIP image towers as Detectron2 backbones with maps at strides 4, 8, 16 and 32.

The towers are open_clip's own modules; the attention pool, the final norm and the projection, which only serve
CLIP's global embedding, are left out. Letters: B images, H, W input size in pixels, E width of a ViT.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.utils import comm
from torch import Tensor, nn

from mtaclip.modeling.clip import clip_config, clip_from_config
from mtaclip.modeling.recompute import recomputed
from mtaclip.modeling.sync_batch_norm import SyncBatchNorm

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


class CLIPTower(Backbone):
    """What the towers share.

    Args:
        recompute: in training, compute norms and activations again in the backward pass instead of keeping them.
    """

    def __init__(self, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute

    def run(self, part: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """part(x), a part of this tower."""
        return recomputed(part, x, owner=part if isinstance(part, nn.Module) else self, active=self.recompute)


class CLIPResNet(CLIPTower):
    """open_clip's ModifiedResNet: three-convolution stem, average pooling instead of strided convolutions.

    Args:
        tower: an `open_clip.modified_resnet.ModifiedResNet`; its attention pool is removed.
        recompute: see `CLIPTower`.
    """

    def __init__(self, tower: nn.Module, recompute: bool = False) -> None:
        super().__init__(recompute)
        tower.attnpool = None
        self.tower = tower
        width = tower.conv3.out_channels
        self.channels = {f"res{i}": width * 2**i for i in range(2, 6)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every map."""
        return {name: ShapeSpec(channels=c, stride=STRIDES[name]) for name, c in self.channels.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps.

        Args:
            images: (B, 3, H, W) normalised RGB.

        Returns:
            "res2" .. "res5": (B, C, H/4, W/4) .. (B, C, H/32, W/32), every halving rounded down.
        """
        x = self.run(self.tower.stem, images)
        features = {}
        for name, layer in zip(
            STRIDES, (self.tower.layer1, self.tower.layer2, self.tower.layer3, self.tower.layer4), strict=True
        ):
            for block in layer:
                x = self.run(block, x)
            features[name] = x
        return features


class CLIPViT(CLIPTower):
    """open_clip's VisionTransformer with a feature pyramid over the outputs of four blocks.

    Args:
        tower: an `open_clip.transformer.VisionTransformer` with patches of 16 pixels.
        taps: indices of the four blocks whose outputs become strides 4, 8, 16 and 32.
        recompute: see `CLIPTower`.
    """

    def __init__(self, tower: nn.Module, taps: tuple[int, ...], recompute: bool = False) -> None:
        super().__init__(recompute)
        blocks = tower.transformer.resblocks
        if len(taps) != 4 or max(taps) >= len(blocks):
            raise ValueError(f"MODEL.CLIP.VIT_TAPS needs four of the {len(blocks)} blocks' indices, got {tuple(taps)}.")
        if tower.conv1.stride != (16, 16):
            raise ValueError(f"MODEL.CLIP.ARCH: the pyramid needs patches of 16 pixels, got {tower.conv1.stride[0]}.")
        width = tower.conv1.out_channels
        self.patch_embedding = tower.conv1
        self.class_embedding = tower.class_embedding
        self.positional_embedding = tower.positional_embedding
        self.grid_size = tower.grid_size
        self.ln_pre = tower.ln_pre
        self.blocks = blocks[: max(taps) + 1]
        self.taps = tuple(taps)
        self.pyramid = nn.ModuleDict(
            {
                "res2": nn.Sequential(
                    nn.GroupNorm(1, width),
                    nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
                    nn.BatchNorm2d(width),
                    nn.GELU(),
                    nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
                ),
                "res3": nn.Sequential(
                    nn.GroupNorm(1, width), nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
                ),
                "res4": nn.GroupNorm(1, width),
                "res5": nn.Sequential(nn.GroupNorm(1, width), nn.MaxPool2d(kernel_size=2, stride=2)),
            }
        )

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every map."""
        return {name: ShapeSpec(channels=self.ln_pre.normalized_shape[0], stride=s) for name, s in STRIDES.items()}

    @property
    def size_divisibility(self) -> int:
        """Edges of images are multiples of it where every pixel is to be seen."""
        return self.patch_embedding.stride[0]

    def position(self, height: int, width: int) -> Tensor:
        """Positions of the class token and of a height x width grid of patches, (1 + height * width, E).

        The table is resized bilinearly. The class embedding is part of the class token's position too, so it is
        counted twice: so do the released code and, for that reason, its checkpoints.
        """
        table = self.positional_embedding
        grid = table[1:].T.unflatten(1, self.grid_size)[None]
        grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
        return torch.cat([(table[0] + self.class_embedding)[None], grid[0].flatten(1).T])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps.

        Args:
            images: (B, 3, H, W) normalised RGB; what is left over beyond a multiple of 16 is not seen.

        Returns:
            "res2" .. "res5": (B, E, 4h, 4w), (B, E, 2h, 2w), (B, E, h, w), (B, E, h/2, w/2) of h x w patches.
        """
        patches = self.patch_embedding(images)
        batch, _, height, width = patches.shape
        tokens = torch.cat([self.class_embedding.to(patches.dtype).expand(batch, 1, -1), patches.flatten(2).mT], dim=1)
        x = self.ln_pre(tokens + self.position(height, width).to(tokens.dtype))
        outputs = {}
        for index, block in enumerate(self.blocks):
            x = self.run(block, x)
            outputs[index] = x
        return {
            name: self.pyramid[name](outputs[tap][:, 1:].mT.unflatten(2, (height, width)))
            for name, tap in zip(STRIDES, self.taps, strict=True)
        }


@BACKBONE_REGISTRY.register()
def build_clip_backbone(cfg, input_shape: ShapeSpec) -> Backbone:
    """The image tower of MODEL.CLIP.ARCH: a ResNet or a ViT, with the norm of MODEL.CLIP.NORM."""
    clip = cfg.MODEL.CLIP
    is_resnet = isinstance(clip_config(clip.ARCH)["vision_cfg"]["layers"], list)
    tower = clip_from_config(cfg, "image").visual
    recompute = cfg.SOLVER.RECOMPUTE
    backbone = CLIPResNet(tower, recompute) if is_resnet else CLIPViT(tower, clip.VIT_TAPS, recompute)
    return convert_norm(backbone, clip.NORM, cfg.MODEL.DEVICE)


def convert_norm(backbone: Backbone, norm: str, device: str = "cpu") -> Backbone:
    """Turn the backbone's BatchNorm into the named kind; "SyncBN" stays "BN" where there is one process.

    Args:
        backbone: changed in place.
        norm: "BN", "SyncBN" or "FrozenBN".
        device: where the backbone is going to run; PyTorch's SyncBatchNorm serves GPUs, our own the CPU.

    Returns:
        The backbone, with the same parameters and buffers under the same names.

    Raises:
        ValueError: unknown name.
    """
    if norm not in ("BN", "SyncBN", "FrozenBN"):
        raise ValueError(f'MODEL.CLIP.NORM must be "BN", "SyncBN" or "FrozenBN", got {norm!r}.')
    if norm == "FrozenBN":
        return FrozenBatchNorm2d.convert_frozen_batchnorm(backbone)
    if norm == "SyncBN" and comm.get_world_size() > 1:
        on_gpu = torch.device(device).type == "cuda"
        return (nn.SyncBatchNorm.convert_sync_batchnorm if on_gpu else SyncBatchNorm.convert)(backbone)
    return backbone
