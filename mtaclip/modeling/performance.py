"""What makes the same model faster on some machines: keys SOLVER.COMPILE, CHANNELS_LAST, TF32 and AMP."""

import torch
from detectron2.config import CfgNode
from torch import nn

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def speed_up(model: nn.Module, cfg: CfgNode) -> None:
    """Apply the keys to a model and to this process.

    Args:
        model: the meta-architecture; its parameters keep their names.
        cfg: SOLVER.COMPILE, SOLVER.CHANNELS_LAST and SOLVER.TF32 are read.
    """
    if cfg.SOLVER.TF32:
        torch.set_float32_matmul_precision("high")
    parts = [part for name, part in model.named_children() if name in ("backbone", "pixel_decoder")]
    if cfg.SOLVER.CHANNELS_LAST:
        for part in parts:
            part.to(memory_format=torch.channels_last)
    if cfg.SOLVER.COMPILE:
        for part in (*parts, *model.decoder.layers):
            part.compile()


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Data type of autocast that SOLVER.AMP asks for; None for float32.

    Raises:
        ValueError: it asks for another.
    """
    if cfg.SOLVER.AMP.DTYPE not in AMP_DTYPES:
        raise ValueError(f"SOLVER.AMP.DTYPE must be one of {list(AMP_DTYPES)}, got {cfg.SOLVER.AMP.DTYPE!r}.")
    return AMP_DTYPES[cfg.SOLVER.AMP.DTYPE] if cfg.SOLVER.AMP.ENABLED else None


def autocast(cfg: CfgNode) -> torch.autocast:
    """The autocast of SOLVER.AMP on MODEL.DEVICE, for inference."""
    dtype = amp_dtype(cfg)
    return torch.autocast(torch.device(cfg.MODEL.DEVICE).type, dtype=dtype, enabled=dtype is not None)
