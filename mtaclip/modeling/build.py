"""Building the model that a configuration describes."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_registered
from torch import nn


def build_model(cfg: CfgNode) -> nn.Module:
    """The meta-architecture on MODEL.DEVICE; CLIP's own weights are not fetched where MODEL.WEIGHTS replaces them all.

    Args:
        cfg: a complete configuration; it is not changed.
    """
    if cfg.MODEL.WEIGHTS:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.CLIP.PRETRAINED = ""
    return build_registered(cfg)
