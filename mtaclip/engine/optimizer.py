"""AdamW with the paper's parameter groups, and its learning-rate schedule."""

from collections import defaultdict
from functools import partial

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mtaclip.modeling.determinism import check_deterministic
from mtaclip.modeling.performance import amp_dtype

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_EMBEDDINGS = ("decoder.query_content", "decoder.query_position", "decoder.level_embedding")


def check_solver(cfg: CfgNode) -> None:
    """Refuse SOLVER values that this project does not implement.

    Raises:
        ValueError: the message names the key.
    """
    solver = cfg.SOLVER
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE != "full_model":
        raise ValueError(
            'SOLVER.CLIP_GRADIENTS.CLIP_TYPE must be "full_model" (one norm over all gradients), '
            f"got {clip.CLIP_TYPE!r}."
        )
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        raise ValueError(f'SOLVER.LR_SCHEDULER_NAME must be "WarmupPolyLR", got {solver.LR_SCHEDULER_NAME!r}.')
    amp_dtype(cfg)
    check_deterministic(cfg)
    if solver.COMPILE and solver.RECOMPUTE:
        raise ValueError(
            "SOLVER.COMPILE and SOLVER.RECOMPUTE exclude each other: a compiler decides itself what to compute again. "
            "Set one of them to False."
        )
    if solver.AMP.ENABLED and solver.AMP.DTYPE == "fp16" and cfg.MODEL.DEVICE == "cpu":
        raise ValueError('SOLVER.AMP.DTYPE "fp16" needs a GPU; on the CPU take "bf16" or SOLVER.AMP.ENABLED False.')


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW over the parameters that are trained; the frozen text tower has no group and no state.

    Args:
        cfg: SOLVER.BASE_LR, BACKBONE_MULTIPLIER, WEIGHT_DECAY, WEIGHT_DECAY_NORM, WEIGHT_DECAY_EMBED,
            WEIGHT_DECAY_BACKBONE_NORM.
        model: the meta-architecture.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=module_name, recurse=False):
            if parameter.requires_grad:
                groups[_group(cfg.SOLVER, name, module)].append(parameter)
    return torch.optim.AdamW(
        [{"params": parameters, "lr": lr, "weight_decay": decay} for (lr, decay), parameters in groups.items()],
        lr=cfg.SOLVER.BASE_LR,
        fused=True,
    )


def _group(solver: CfgNode, name: str, module: nn.Module) -> tuple[float, float]:
    """Learning rate and weight decay of a parameter, from its name and the module that owns it."""
    is_norm = isinstance(module, _NORMS)
    if name.startswith("backbone."):
        decay = solver.WEIGHT_DECAY_BACKBONE_NORM if is_norm else solver.WEIGHT_DECAY
        return solver.BASE_LR * solver.BACKBONE_MULTIPLIER, decay
    if name in _EMBEDDINGS:
        return solver.BASE_LR, solver.WEIGHT_DECAY_EMBED
    return solver.BASE_LR, solver.WEIGHT_DECAY_NORM if is_norm else solver.WEIGHT_DECAY


def lr_factor(iteration: int, *, warmup_iters: int, warmup_factor: float, max_iter: int, power: float) -> float:
    """Learning rate of an iteration (counted from 0) over the base rate.

    Linear from `warmup_factor` at iteration 0 to 1 at the last warm-up iteration, then a polynomial from 1 at the
    first iteration after it to exactly 0 at the last iteration.
    """
    if iteration < warmup_iters:
        return warmup_factor + (1 - warmup_factor) * iteration / max(warmup_iters - 1, 1)
    progress = (iteration - warmup_iters) / max(max_iter - warmup_iters - 1, 1)
    return max(1 - progress, 0.0) ** power


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LambdaLR:
    """`lr_factor` with SOLVER.WARMUP_ITERS, WARMUP_FACTOR, MAX_ITER and POLY_LR_POWER."""
    factor = partial(
        lr_factor,
        warmup_iters=cfg.SOLVER.WARMUP_ITERS,
        warmup_factor=cfg.SOLVER.WARMUP_FACTOR,
        max_iter=cfg.SOLVER.MAX_ITER,
        power=cfg.SOLVER.POLY_LR_POWER,
    )
    return LambdaLR(optimizer, factor)
