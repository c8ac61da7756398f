"""Batch normalisation over two real processes against one process with all images."""

from pathlib import Path

import mtaclip  # noqa: F401

# isort: split
import torch
from detectron2.utils import comm

from mtaclip.engine.launch import launch
from mtaclip.engine.processes import Processes
from mtaclip.modeling.clip import build_clip
from mtaclip.modeling.clip_backbone import CLIPResNet, convert_norm
from mtaclip.modeling.sync_batch_norm import SyncBatchNorm

# Images of the two processes: their numbers differ, which an average of the processes' means would not notice.
SHARES = (slice(0, 3), slice(3, 5))


def observe(share: slice) -> dict[str, torch.Tensor]:
    """Two training passes and one in evaluation over a share of five images, in float64."""
    torch.manual_seed(0)
    backbone = CLIPResNet(build_clip("mtaclip-tiny").visual)
    keys = list(backbone.state_dict())
    backbone = convert_norm(backbone, "SyncBN", "cpu").double()
    assert list(backbone.state_dict()) == keys
    generator = torch.Generator().manual_seed(0)
    seen = {}
    for step in range(2):
        images = torch.randn(5, 3, 64, 96, generator=generator, dtype=torch.float64)[share].requires_grad_()
        features = backbone(images)
        sum((f * f.detach().sin()).sum() for f in features.values()).backward()
        seen |= {f"{step}.images": images.grad} | {f"{step}.{name}": f.detach() for name, f in features.items()}
    seen |= {f"gradient.{name}": p.grad for name, p in backbone.named_parameters()}
    seen |= {f"buffer.{name}": b for name, b in backbone.named_buffers()}
    with torch.no_grad():
        seen |= {f"eval.{name}": f for name, f in backbone.eval()(images).items()}
    return seen


def worker(folder: Path) -> None:
    """What one process sees, and its normalisation of bf16, go into a file."""
    seen = observe(SHARES[comm.get_rank()])
    mixed = SyncBatchNorm(2)(torch.full((1, 2, 1, 1), float(comm.get_rank()), dtype=torch.bfloat16))
    torch.save({**seen, "bf16": mixed.detach()}, folder / f"{comm.get_rank()}.pth")


def test_two_processes_compute_what_one_would(tmp_path):
    """Outputs, gradients and running statistics, with the parameters under the same names."""
    launch(worker, Processes("cpu", world_size=2, local_size=2, url="auto", threads=1), tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    for name, expected in observe(slice(0, 5)).items():
        if name.startswith("gradient."):
            seen = first[name] + second[name]
        elif name.startswith("buffer."):
            seen = first[name]
            assert torch.equal(seen, second[name]), name
        else:
            seen = torch.cat([first[name], second[name]])
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    # The values 0 and 1 have mean 1/2 and variance 1/4, so they become -1 and 1.
    assert first["bf16"].dtype == torch.bfloat16
    assert first["bf16"].flatten().tolist() == [-1, -1] and second["bf16"].flatten().tolist() == [1, 1]
