"""What makes the same training faster on some machines: SOLVER.COMPILE, SOLVER.CHANNELS_LAST and SOLVER.TF32."""

import torch
from detectron2.config import CfgNode
from torch import nn


def speed_up(model: nn.Module, cfg: CfgNode) -> None:
    """Apply the keys to a model and to this process.

    Args:
        model: the meta-architecture; its parameters keep their names.
        cfg: SOLVER.COMPILE, SOLVER.CHANNELS_LAST and SOLVER.TF32 are read.
    """
    if cfg.SOLVER.TF32:
        torch.set_float32_matmul_precision("high")
    if cfg.SOLVER.CHANNELS_LAST:
        for part in (model.backbone, model.pixel_decoder):
            part.to(memory_format=torch.channels_last)
    if cfg.SOLVER.COMPILE:
        for part in (model.backbone, model.pixel_decoder, *model.decoder.layers):
            part.compile()
