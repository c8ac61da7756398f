"""Upper limits of what decides how large a model is, or how much is done at a time: far above what anybody needs."""

from detectron2.config import CfgNode

from mtaclip.config import value_of

_WIDTH, _LAYERS, _HEADS, _BATCH, _EDGE = 65_536, 256, 1024, 65_536, 65_536
_LIMITS = {
    "DATALOADER.NUM_WORKERS": 1024,
    "INPUT.CROP.SIZE": _EDGE,
    "MODEL.MTACLIP.HIDDEN_DIM": _WIDTH,
    "MODEL.MTACLIP.TEXT.NUM_CONTEXTS": 4096,
    "MODEL.MTACLIP.TEXT.CONTEXT_LENGTH": 4096,
    "MODEL.MTACLIP.TEXT.TOKEN_LENGTH": 4096,
    "MODEL.MTACLIP.PIXEL_DECODER.LAYERS": _LAYERS,
    "MODEL.MTACLIP.PIXEL_DECODER.HEADS": _HEADS,
    "MODEL.MTACLIP.PIXEL_DECODER.POINTS": 256,
    "MODEL.MTACLIP.PIXEL_DECODER.FFN_DIM": _WIDTH,
    "MODEL.MTACLIP.DECODER.NUM_QUERIES": 65_536,
    "MODEL.MTACLIP.DECODER.LAYERS": _LAYERS,
    "MODEL.MTACLIP.DECODER.HEADS": _HEADS,
    "MODEL.MTACLIP.DECODER.FFN_DIM": _WIDTH,
    "MODEL.MTACLIP.LOSS.NUM_POINTS": 10_000_000,
    "MODEL.MTACLIP.LOSS.OVERSAMPLE_RATIO": 1000.0,
    "MODEL.RESNETS.NUM_GROUPS": _WIDTH,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _WIDTH,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _WIDTH,
    "MODEL.RESNETS.WIDTH_PER_GROUP": _WIDTH,
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": 65_536,
    "MODEL.SWIN.DEPTHS": _LAYERS,
    "MODEL.SWIN.EMBED_DIM": _WIDTH,
    "MODEL.SWIN.HEADS": _HEADS,
    "MODEL.SWIN.WINDOW": 1024,
    "SOLVER.ACCUMULATE": _BATCH,
    "SOLVER.IMS_PER_BATCH": _BATCH,
    "TEST.IMS_PER_BATCH": _BATCH,
    "TEST.SLIDING_WINDOW.BATCH": _BATCH,
    "TEST.SLIDING_WINDOW.CROP_SIZE": _EDGE,
}
MOST_LAYERS = _LAYERS
"""Layers of a part of a model."""


def check_limits(cfg: CfgNode) -> None:
    """Refuse values that could only be mistakes, and would take memory or time without end.

    Raises:
        ValueError: the message names the key.
    """
    for key, most in _LIMITS.items():
        value = value_of(cfg, key)
        for number in value if isinstance(value, list | tuple) else (value,):
            if isinstance(number, int | float) and number > most:
                raise ValueError(f"{key} is {value}, the most that is allowed is {most}")
