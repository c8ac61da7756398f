"""Training in two real processes: gradients are averaged, every parameter takes part."""

from pathlib import Path

import mtaclip  # noqa: F401

# isort: split
import torch
from detectron2.utils import comm

from mtaclip.engine import Trainer, setup_cfg
from mtaclip.engine.launch import launch
from mtaclip.engine.processes import Processes

ROOT = Path(__file__).resolve().parents[2]
WORLD_SIZE = 2


def worker(folder: Path) -> None:
    """Train two steps as one of the processes, on the CPU; the weights go into a file."""
    rank = comm.get_rank()
    options = [
        "SOLVER.MAX_ITER", "2",
        "SOLVER.IMS_PER_BATCH", "2",
        "INPUT.CROP.SIZE", "(64,128)",
        "MODEL.MTACLIP.LOSS.NUM_POINTS", "64",
        "DATALOADER.NUM_WORKERS", "0",
        "OUTPUT_DIR", str(folder / "out"),
    ]  # fmt: skip
    cfg = setup_cfg(ROOT / "configs" / "miniature" / "mtaclip_tiny.yaml", options, device="cpu")
    Path(cfg.OUTPUT_DIR).mkdir(exist_ok=True)
    torch.manual_seed(rank)  # other initial weights and other points on every process
    trainer = Trainer(cfg)
    trainer.train()
    torch.save({name: p.detach() for name, p in trainer.model.module.named_parameters()}, folder / f"{rank}.pth")


def test_two_processes_keep_the_same_weights(tmp_path, miniature):
    launch(worker, Processes("cpu", world_size=WORLD_SIZE, local_size=WORLD_SIZE, url="auto", threads=1), tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(WORLD_SIZE))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "out" / "scores_cityscapes_sem_seg_val.json").is_file()
    assert (tmp_path / "out" / "model_final.pth").is_file()
