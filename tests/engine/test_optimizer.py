"""Learning-rate schedule and parameter groups."""

import pytest
import torch

from mtaclip.engine import setup_cfg
from mtaclip.engine.optimizer import build_lr_scheduler, lr_factor

PAPER = {"warmup_iters": 1500, "warmup_factor": 0.1, "max_iter": 160000, "power": 0.9}


def test_factor_is_the_measured_one():
    # The released schedule: 0.1 + 0.9 t / 1499 up to t = 1499, then (1 - (t - 1500) / 158499) ** 0.9.
    assert lr_factor(0, **PAPER) == pytest.approx(0.1)
    assert lr_factor(700, **PAPER) == pytest.approx(0.1 + 0.9 * 700 / 1499)
    assert lr_factor(1499, **PAPER) == pytest.approx(1.0)
    assert lr_factor(1500, **PAPER) == 1.0
    assert lr_factor(80000, **PAPER) == pytest.approx((1 - 78500 / 158499) ** 0.9)
    assert lr_factor(159999, **PAPER) == 0.0


def test_without_warm_up_the_first_iteration_has_the_base_rate():
    assert lr_factor(0, warmup_iters=0, warmup_factor=1.0, max_iter=10, power=0.9) == 1.0


def test_scheduler_scales_every_group(config_path):
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), ["SOLVER.MAX_ITER", "10", "SOLVER.WARMUP_ITERS", "2"])
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 1.0}, {"params": weights[1:], "lr": 0.1}])
    scheduler = build_lr_scheduler(cfg, optimizer)
    seen = []
    for _ in range(10):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert seen[0] == pytest.approx([0.1, 0.01])
    assert seen[2] == pytest.approx([1.0, 0.1])
    assert seen[9] == pytest.approx([0.0, 0.0])
    assert all(a == pytest.approx(10 * b) for a, b in seen)
