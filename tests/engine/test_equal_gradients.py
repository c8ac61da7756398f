"""One batch gives the same gradients however processes and parts share it.

Run as a script, this file is one of the processes: `test_equal_gradients.py RANK WORLD_SIZE PARTS FOLDER`.
"""

import os
import subprocess
import sys
from pathlib import Path

import mtaclip  # noqa: F401

# isort: split
import pytest
import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from mtaclip.engine import Trainer, setup_cfg
from mtaclip.engine.launch import launch
from mtaclip.engine.optimizer import build_optimizer
from mtaclip.engine.processes import Processes
from mtaclip.engine.step import TrainStep

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = [
    "INPUT.CROP.SIZE", "(64,96)",
    "MODEL.MTACLIP.LOSS.NUM_POINTS", "64",
    "MODEL.MTACLIP.DECODER.NUM_QUERIES", "8",
    "MODEL.CLIP.NORM", "FrozenBN",
]  # fmt: skip
CLASSES = [(0, 7, 255), (3,), tuple(range(12)), (255,)]  # per image; their numbers of masks differ


class SamePoints:
    """The same points in every image, so that they do not depend on who computes it."""

    def for_matching(self, batch, device):
        return torch.rand(1, 1, 64, 2, generator=torch.Generator().manual_seed(1)).expand(1, batch, -1, -1)

    def for_losses(self, mask_logits, image):
        points = torch.rand(1, 64, 2, generator=torch.Generator().manual_seed(2))
        return points.expand(len(mask_logits), -1, -1)


def samples():
    generator = torch.Generator().manual_seed(0)
    result = []
    for classes in CLASSES:
        image = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
        place = torch.randint(len(classes), (64, 96), generator=generator)
        result.append({"image": image, "sem_seg": torch.tensor(classes, dtype=torch.uint8)[place]})
    return result


def worker(parts: int, folder: Path) -> None:
    """One training step on this process's share of the four images; gradients and losses go into a file."""
    torch.set_num_threads(1)
    rank, world_size = comm.get_rank(), comm.get_world_size()
    cfg = setup_cfg(ROOT / "configs" / "miniature" / "mtaclip_tiny.yaml", OPTIONS, device="cpu")
    torch.manual_seed(0)
    model = Trainer.build_model(cfg)
    model.criterion.points = SamePoints()
    optimizer = build_optimizer(cfg, model)
    model = create_ddp_model(model, device_ids=None)
    size = len(CLASSES) // (world_size * parts)
    own = samples()[rank * size * parts : (rank + 1) * size * parts]
    step = TrainStep(model, optimizer, dtype=None, max_norm=None, accumulate=parts, output_dir=folder)
    step.data_loader = [own[i * size : (i + 1) * size] for i in range(parts)]
    with EventStorage() as storage:
        step.run_step(0)
        losses = {name: value for name, (value, _) in storage.latest().items() if name != "data_time"}
    if rank == 0:
        gradients = {n.removeprefix("module."): p.grad for n, p in model.named_parameters() if p.grad is not None}
        torch.save({"gradients": gradients, "losses": losses}, folder / "result.pth")


def result_of(folder: Path, world_size: int, parts: int) -> dict:
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(world_size), str(parts), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result.pth", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return result_of(tmp_path_factory.mktemp("whole") / "1", 1, 1)


@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_gradients_and_losses_do_not_depend_on_the_division(whole, tmp_path, world_size, parts):
    divided = result_of(tmp_path / "divided", world_size, parts)
    assert set(divided["losses"]) == set(whole["losses"])
    for name, value in whole["losses"].items():
        assert divided["losses"][name] == pytest.approx(value, rel=1e-5), name
    assert set(divided["gradients"]) == set(whole["gradients"])
    for name, expected in whole["gradients"].items():
        scale = expected.abs().max().clamp(min=1e-12)
        torch.testing.assert_close(divided["gradients"][name] / scale, expected / scale, rtol=0, atol=1e-5, msg=name)


if __name__ == "__main__":
    size = int(sys.argv[1])
    launch(worker, Processes("cpu", world_size=size, local_size=size, url="auto"), int(sys.argv[2]), Path(sys.argv[3]))
