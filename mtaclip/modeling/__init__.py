"""Backbones and the meta-architecture, registered with Detectron2."""

from mtaclip.modeling.clip_backbone import CLIPResNet, CLIPViT, build_clip_backbone
from mtaclip.modeling.meta_arch import MTACLIP
from mtaclip.modeling.swin_backbone import SwinBackbone, build_swin_backbone

__all__ = ["MTACLIP", "CLIPResNet", "CLIPViT", "SwinBackbone", "build_clip_backbone", "build_swin_backbone"]
