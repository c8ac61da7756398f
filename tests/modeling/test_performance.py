"""Keys that change the speed change nothing else."""

import pytest
import torch

from mtaclip.engine import Trainer, setup_cfg
from mtaclip.modeling.performance import speed_up

SMALL = ["INPUT.CROP.SIZE", "(64,96)", "MODEL.MTACLIP.LOSS.NUM_POINTS", "64", "MODEL.MTACLIP.DECODER.NUM_QUERIES", "8"]


def losses_and_gradients(config_path, *options):
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), [*SMALL, *options], device="cpu")
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    speed_up(model, cfg)
    generator = torch.Generator().manual_seed(0)
    batch = [
        {
            "image": torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8),
            "sem_seg": torch.randint(0, 4, (64, 96), generator=generator, dtype=torch.uint8),
        }
    ]
    torch.manual_seed(1)
    losses = model(batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "key", ["CHANNELS_LAST", "TF32", "RECOMPUTE", pytest.param("COMPILE", marks=pytest.mark.slow)], ids=str.lower
)
def test_losses_and_gradients_stay(config_path, key):
    precision = torch.get_float32_matmul_precision()
    plain = losses_and_gradients(config_path, f"SOLVER.{key}", "False")
    try:
        fast = losses_and_gradients(config_path, f"SOLVER.{key}", "True")
    finally:
        torch.set_float32_matmul_precision(precision)
    for ours, theirs in zip(fast, plain, strict=True):
        assert list(ours) == list(theirs)
        for name, expected in theirs.items():
            scale = expected.abs().max().clamp(min=1e-6)
            torch.testing.assert_close(ours[name] / scale, expected / scale, rtol=0, atol=2e-3, msg=name)
