"""One batch gives the same gradients however processes and parts share it."""

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
DIVISIONS = {1: [1, 4], 2: [1, 2], 4: [1]}  # parts of every process's share, by the number of processes


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


def worker(divisions: list[int], folder: Path) -> None:
    """A training step for each number of parts that this process's share of the images may be divided into."""
    for parts in divisions:
        take_step(parts, folder)


def take_step(parts: int, folder: Path) -> None:
    """One training step on this process's share of the four images; gradients and losses go into a file."""
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
        torch.save({"gradients": gradients, "losses": losses}, folder / f"{parts}.pth")


@pytest.fixture(scope="module")
def result_of(tmp_path_factory):
    """A function from the numbers of processes and parts to gradients and losses; each group starts once."""
    folders = {}

    def get(world_size: int, parts: int) -> dict:
        if world_size not in folders:
            folders[world_size] = tmp_path_factory.mktemp(f"processes_{world_size}")
            processes = Processes("cpu", world_size=world_size, local_size=world_size, url="auto", threads=1)
            launch(worker, processes, DIVISIONS[world_size], folders[world_size])
        return torch.load(folders[world_size] / f"{parts}.pth", weights_only=True)

    return get


@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_gradients_and_losses_do_not_depend_on_the_division(result_of, world_size, parts):
    whole, divided = result_of(1, 1), result_of(world_size, parts)
    assert set(divided["losses"]) == set(whole["losses"])
    for name, value in whole["losses"].items():
        assert divided["losses"][name] == pytest.approx(value, rel=1e-5), name
    assert set(divided["gradients"]) == set(whole["gradients"])
    for name, expected in whole["gradients"].items():
        scale = expected.abs().max().clamp(min=1e-12)
        torch.testing.assert_close(divided["gradients"][name] / scale, expected / scale, rtol=0, atol=1e-5, msg=name)
