"""Evaluation in three real processes gives the scores of one process.

Run as a script, this file is one of the processes: `test_distributed.py RANK FOLDER`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

WORLD_SIZE = 3
NUM_CLASSES = 3
DATASET = "evaluation_test_distributed"


def records(folder: Path, num_images: int) -> list[dict[str, str]]:
    return [
        {
            "file_name": str(folder / f"{i}.png"),
            "sem_seg_file_name": str(folder / f"{i}_labels.png"),
            "label_format": "train_ids",
        }
        for i in range(num_images)
    ]


class BrightestChannel(torch.nn.Module):
    """A model that predicts the class whose colour channel is strongest."""

    def forward(self, inputs: list[dict[str, str]]) -> list[dict[str, torch.Tensor]]:
        images = [torch.from_numpy(np.array(Image.open(record["file_name"]))) for record in inputs]
        return [{"sem_seg": image.permute(2, 0, 1).float()} for image in images]


def evaluate(folder: Path, num_images: int, world_size: int, padded: bool = False) -> dict[str, float] | None:
    """Evaluate this process's share of the images, as Detectron2 does it."""
    from detectron2.data import MetadataCatalog
    from detectron2.data.samplers import InferenceSampler
    from detectron2.evaluation import inference_on_dataset

    from mtaclip.evaluation import SemanticEvaluator

    MetadataCatalog.get(DATASET).set(stuff_classes=["red", "green", "blue"], ignore_label=255)
    share = list(InferenceSampler(num_images)) if world_size > 1 else list(range(num_images))
    if padded:  # as samplers do that give every process the same number
        share = (share + list(range(num_images)))[: -(-num_images // world_size)]
    batches = [[records(folder, num_images)[i]] for i in share]
    output = folder / f"out_{world_size}_{num_images}{'_padded' * padded}"
    result = inference_on_dataset(BrightestChannel(), batches, SemanticEvaluator(DATASET, output, examples=2))
    MetadataCatalog.remove(DATASET)
    return result["sem_seg"] if result else None


def worker(rank: int, folder: Path) -> None:
    import mtaclip  # noqa: F401

    # isort: split
    from detectron2.utils import comm

    torch.set_num_threads(1)
    store = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD_SIZE)
    # 7 images: shares of 3, 2 and 2; 2 images: the third process has none.
    results = {num_images: evaluate(folder, num_images, WORLD_SIZE) for num_images in (7, 2)}
    results["padded"] = evaluate(folder, 7, WORLD_SIZE, padded=True)
    (folder / f"result_{rank}.json").write_text(json.dumps(results))
    comm._get_global_gloo_group.cache_clear()  # a group that is still referred to may abort the process at its exit
    torch.distributed.destroy_process_group()


def read_page(folder: Path) -> str:
    """The report of an evaluation, without the time."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", text)


@pytest.mark.slow
def test_three_processes_with_uneven_and_empty_shares_give_the_scores_of_one(tmp_path):
    rng = np.random.default_rng(5)
    for record in records(tmp_path, 7):
        size = tuple(rng.integers(4, 9, 2))
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(record["file_name"])
        Image.fromarray(rng.choice([0, 1, 2, 255], size).astype(np.uint8)).save(record["sem_seg_file_name"])
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(WORLD_SIZE)]
    processes = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for command in commands]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0, 0]
    finally:
        for process in processes:
            process.kill()

    results = [json.loads((tmp_path / f"result_{rank}.json").read_text()) for rank in range(WORLD_SIZE)]
    assert results[1] == results[2] == {"7": None, "2": None, "padded": None}  # the main process alone has the scores
    for num_images in (7, 2):
        alone = evaluate(tmp_path, num_images, world_size=1)
        assert results[0][str(num_images)] == alone
        files = [tmp_path / f"out_{size}_{num_images}" / f"scores_{DATASET}.json" for size in (1, WORLD_SIZE)]
        single, shared = (json.loads(file.read_text()) for file in files)
        assert single == shared
        assert single["num_images"] == num_images
        single, shared = (read_page(file.parent) for file in files)
        assert single == shared
        assert single.count('<figure class="example">') == min(num_images, 4)
    assert results[0]["padded"] == results[0]["7"]
    padded = json.loads((tmp_path / f"out_{WORLD_SIZE}_7_padded" / f"scores_{DATASET}.json").read_text())
    assert padded == json.loads((tmp_path / "out_1_7" / f"scores_{DATASET}.json").read_text())
    assert read_page(tmp_path / f"out_{WORLD_SIZE}_7_padded") == read_page(tmp_path / "out_1_7")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    worker(int(sys.argv[1]), Path(sys.argv[2]))
