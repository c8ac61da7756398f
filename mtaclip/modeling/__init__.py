"""Backbones and the meta-architecture, registered with Detectron2."""

from mtaclip.modeling.clip_backbone import CLIPResNet, CLIPViT, build_clip_backbone
from mtaclip.modeling.meta_arch import MTACLIP

__all__ = ["MTACLIP", "CLIPResNet", "CLIPViT", "build_clip_backbone"]
