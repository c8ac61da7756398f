"""The same bits in every run: each program runs twice, in processes of its own."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch

from tests import tiny

TINY = "configs/miniature/mtaclip_tiny.yaml"
SMALL = [
    "SEED", "7",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.MAX_ITER", "6",
    "SOLVER.WARMUP_ITERS", "2",
    "SOLVER.CHECKPOINT_PERIOD", "3",
    "TEST.EVAL_PERIOD", "3",
    "TEST.SAVE_PREDICTIONS", "True",
    *tiny.SIZES,
    "DATALOADER.NUM_WORKERS", "1",
]  # fmt: skip
TIMES = ("data_time", "time", "eta_seconds")  # what metrics.json measures
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def train(run_script, miniature_root, tmp_path_factory):
    """A function from options, and then environment variables, to the folder of a finished training."""

    def run(*options, **environment) -> Path:
        folder = tmp_path_factory.mktemp("run")
        command = ["train_net.py", "--config-file", TINY, "--num-gpus", 0]
        done = run_script(*command, *options, *SMALL, "OUTPUT_DIR", folder, root=miniature_root, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return folder

    return run


@pytest.fixture(scope="module")
def trained(train):
    """The same, of which each is run once."""
    return cache(train)


def records(folder: Path) -> list[dict]:
    """What `metrics.json` says of losses and scores, without times."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def same(first: object, second: object) -> bool:
    """Whether two values are written alike; NaN is."""
    return json.dumps(first) == json.dumps(second)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def assert_same_training(first: Path, second: Path) -> None:
    """Losses, norms, scores, label maps, weights and moments are equal to the last bit."""
    assert len(records(first)) == 3 and same(records(first), records(second))
    a, b = (torch.load(folder / "model_final.pth", weights_only=True) for folder in (first, second))
    assert a["model"].keys() == b["model"].keys() and len(a["model"]) > 100
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    for index, moments in a["optimizer"]["state"].items():
        assert all(torch.equal(moments[name], b["optimizer"]["state"][index][name]) for name in moments)
    assert contents(first / "predictions") == contents(second / "predictions")
    scores = "scores_cityscapes_sem_seg_val.json"
    assert (first / scores).read_bytes() == (second / scores).read_bytes()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ((), "Training with a data worker, evaluations, checkpoints"),
        (("SOLVER.DETERMINISTIC", "True"), "The same with SOLVER.DETERMINISTIC"),
        (("SOLVER.AMP.ENABLED", "True"), "The same in bf16"),
        (("--num-processes", "2"), "The same in two processes, by gloo"),
    ],
)
def test_a_training_repeats(trained, train, row, options, what):
    assert_same_training(trained(*options), train(*options))
    row("determinism", what, "two runs", "same bits")


def test_a_long_training_repeats(run_script, miniature_root, tmp_path, row):
    """The demo's: what is rare, such as a point that all but touches an edge, is not met in a few iterations."""
    weights = []
    for name in ("first", "second"):
        options = ["DATASETS.TEST", "()", "OUTPUT_DIR", tmp_path / name]
        done = run_script("train_net.py", "--config-file", TINY, "--num-gpus", 0, *options, root=miniature_root)
        assert done.returncode == 0, done.stdout + done.stderr
        weights.append(torch.load(tmp_path / name / "model_final.pth", weights_only=True)["model"])
    first, second = weights
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    row("determinism", "The demo's training, 1000 iterations", "two runs", "same bits")


def test_data_workers_change_nothing(trained, train, row):
    assert_same_training(trained(), train("DATALOADER.NUM_WORKERS", "3"))
    row("determinism", "Training", "one data worker, three", "same bits")


@pytest.mark.parametrize(
    ("variables", "what"),
    [
        ({"OMP_NUM_THREADS": "2"}, "one thread (OMP_NUM_THREADS), two"),
        (
            {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MTACLIP_CPU": "avx2"},
            "the processor's instructions, AVX2 only",
        ),
    ],
)
def test_another_machine_comes_close(trained, train, row, variables, what):
    """Sums in another order round differently; these two settings stand for what machines differ in."""
    ours, theirs = records(trained()), records(train(**variables))
    assert [line.keys() for line in ours] == [line.keys() for line in theirs]
    first, second = (lines[0]["total_loss"] for lines in (ours, theirs))
    difference = abs(first - second) / first
    assert difference < 1e-3
    equal = same(ours, theirs)
    row("determinism", "Training", what, "same bits" if equal else f"losses differ, in total by {difference:.0e} of it")


@pytest.mark.parametrize(
    ("program", "what"),
    [
        (["train_net.py", "--config-file", TINY, "--num-gpus", 0, "--eval-only"], "Evaluation with label maps"),
        (["demo.py", "--config-file", TINY, "--save", "overlay", "ids", "confidence"], "Pictures of demo.py"),
        (["projects/MTACLIP/publish.py"], "Publishing"),
        (["projects/MTACLIP/export.py", "--format", "torch"], "Export as a program of PyTorch"),
        (["projects/MTACLIP/export.py", "--format", "onnx"], "Export to ONNX"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_program_repeats(trained, run_script, miniature_root, tmp_path, row, program, what):
    if "onnx" in program:
        pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    checkpoint = trained() / "model_final.pth"
    found = []
    for place in (tmp_path / "first" / "model", tmp_path / "second" / "model"):
        place.parent.mkdir()
        command = [*program, *arguments(program, checkpoint, place, miniature_root)]
        done = run_script(*command, root=miniature_root)
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(written(place.parent))
    assert found[0] and found[0] == found[1]
    row("determinism", what, "two runs", "same bytes")


def arguments(program: list, checkpoint: Path, place: Path, root: Path) -> list[object]:
    """What a program takes to read a checkpoint and to write to `place`."""
    if "train_net.py" in program:
        return [*SMALL, "MODEL.WEIGHTS", checkpoint, "OUTPUT_DIR", place]
    if "demo.py" in program:
        images = root / "cityscapes" / "leftImg8bit" / "val"
        options = [*SMALL, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", checkpoint]
        return ["--input", images, "--output", place, "--opts", *options]
    size = ["--height", 64, "--width", 96] if "--format" in program else []
    return ["--checkpoint", checkpoint, "--output", place.with_suffix(ending(program)), *size]


def ending(program: list) -> str:
    return {"torch": ".pt2", "onnx": ".onnx"}.get(program[-1], "")


def written(folder: Path) -> dict[str, bytes]:
    """All files but logs and those that name their own folder."""
    return {
        name: data
        for name, data in contents(folder).items()
        if Path(name).name not in ("log.txt", "config.yaml", "report.html", "report.md")
    }
