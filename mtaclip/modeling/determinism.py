"""Key SOLVER.DETERMINISTIC: the same bits in every run on the same machine, also on a GPU."""

import os

import torch
from detectron2.config import CfgNode

_WORKSPACES = (":4096:8", ":16:8")  # of cuBLAS, whose products then have the same bits in every run
_switched_on = False  # by a model that was built before in this process


def use_deterministic(cfg: CfgNode) -> None:
    """Apply the key to this process, before anything is computed on a GPU.

    Args:
        cfg: SOLVER.DETERMINISTIC is read.

    Raises:
        ValueError: CUBLAS_WORKSPACE_CONFIG makes runs differ.
    """
    global _switched_on
    if not cfg.SOLVER.DETERMINISTIC:
        if _switched_on:
            torch.use_deterministic_algorithms(False)
            _switched_on = False
        return
    workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _WORKSPACES[0])
    if workspace not in _WORKSPACES:
        raise ValueError(
            f"SOLVER.DETERMINISTIC: the variable CUBLAS_WORKSPACE_CONFIG is {workspace!r}, with which products on a "
            f"GPU differ from run to run: unset it, or set it to {' or '.join(_WORKSPACES)}."
        )
    torch.use_deterministic_algorithms(True)
    _switched_on = True
    torch.backends.cudnn.benchmark = False


def check_deterministic(cfg: CfgNode) -> None:
    """Refuse what SOLVER.DETERMINISTIC cannot be kept with.

    Raises:
        ValueError: the message names the keys.
    """
    if not cfg.SOLVER.DETERMINISTIC:
        return
    if cfg.SEED < 0:
        raise ValueError(
            f"SOLVER.DETERMINISTIC needs one seed for all runs, and SEED {cfg.SEED} draws a new one each time: set "
            "SEED to 0 or more."
        )
    if cfg.CUDNN_BENCHMARK:
        raise ValueError(
            "SOLVER.DETERMINISTIC and CUDNN_BENCHMARK exclude each other: the fastest convolution may be another one "
            "in every run. Set one of them to False."
        )
