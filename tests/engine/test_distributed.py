"""Training in two real processes: gradients are averaged, every parameter takes part.

Run as a script, this file is one of the processes: `test_distributed.py RANK FOLDER`.
"""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
WORLD_SIZE = 2


def worker(rank: int, folder: Path) -> None:
    """Train two steps as one of the processes, on the CPU; the weights go into a file."""
    import mtaclip  # noqa: F401

    # isort: split
    import torch.distributed as dist
    from detectron2.utils import comm

    from mtaclip.engine import Trainer, setup_cfg

    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD_SIZE, timeout=timedelta(seconds=120))
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(WORLD_SIZE)
    else:
        comm._LOCAL_PROCESS_GROUP = dist.new_group(list(range(WORLD_SIZE)))
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


def test_two_processes_keep_the_same_weights(tmp_path, miniature_root):
    environment = {**os.environ, "DETECTRON2_DATASETS": str(miniature_root), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE)
        for rank in range(WORLD_SIZE)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    first, second = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(WORLD_SIZE))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (tmp_path / "out" / "scores_cityscapes_sem_seg_val.json").is_file()
    assert (tmp_path / "out" / "model_final.pth").is_file()


if __name__ == "__main__":
    worker(int(sys.argv[1]), Path(sys.argv[2]))
