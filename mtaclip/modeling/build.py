"""Building the model that a configuration describes."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_registered
from torch import nn

from mtaclip.modeling.clip import fetch_pretrained

_NEEDS_CLIP = {"classes", "contexts", "text"}  # parts of MODEL.WEIGHTS that, renewed, may need more of its text tower


def build_model(cfg: CfgNode) -> nn.Module:
    """The meta-architecture on MODEL.DEVICE; CLIP's own weights are not fetched where MODEL.WEIGHTS replaces them all.

    All processes of a run call it, for one of each machine fetches the weights.

    Args:
        cfg: a complete configuration; it is not changed.

    Raises:
        FileNotFoundError, ValueError: CLIP's weights are not there or do not fit.
    """
    if cfg.MODEL.WEIGHTS and _NEEDS_CLIP.isdisjoint(cfg.MODEL.WEIGHTS_REINIT):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.CLIP.PRETRAINED = ""
    elif cfg.MODEL.BACKBONE.NAME == "build_clip_backbone" or cfg.MODEL.MTACLIP.TEXT.ENABLED:
        fetch_pretrained(cfg)
    return build_registered(cfg)
