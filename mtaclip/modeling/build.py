"""Building the model that a configuration describes."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model as build_registered
from torch import nn

from mtaclip.modeling.clip import fetch_pretrained
from mtaclip.modeling.determinism import use_deterministic

_NEED_CLIP = {"classes", "contexts", "text"}  # parts that, when they start anew, may need more of its text tower


def build_model(cfg: CfgNode) -> nn.Module:
    """The meta-architecture on MODEL.DEVICE; CLIP's own weights are not fetched where MODEL.WEIGHTS replaces them all.

    All processes of a run call it, for one of each machine fetches the weights.

    Args:
        cfg: a complete configuration; it is not changed.

    Raises:
        ValueError: CLIP's weights are not there or do not fit; see also `use_deterministic`.
    """
    use_deterministic(cfg)
    has_texts = cfg.MODEL.MTACLIP.TEXT.ENABLED
    if cfg.MODEL.WEIGHTS and not (has_texts and _NEED_CLIP.intersection(cfg.MODEL.WEIGHTS_REINIT)):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.CLIP.PRETRAINED = ""
    elif has_texts or cfg.MODEL.BACKBONE.NAME == "build_clip_backbone":
        fetch_pretrained(cfg)
    return build_registered(cfg)
