"""train_net.py as users type it, on a drawn miniature; in processes of its own wherever it sets something up."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from projects.MTACLIP.train_net import main
from tests import tiny

TINY = "configs/miniature/mtaclip_tiny.yaml"
SMALL = [
    "SOLVER.IMS_PER_BATCH", "2",
    *tiny.SIZES,
    "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.WARMUP_ITERS", "2",
]  # fmt: skip


@pytest.fixture
def train(run_script, miniature_root):
    def run(*arguments, config=TINY, through=(), **environment):
        command = [*through, "train_net.py", "--config-file", config, "--num-gpus", 0, *arguments]
        return run_script(*command, root=miniature_root, **environment)

    return run


def metrics(folder) -> dict[int, dict]:
    lines = (folder / "metrics.json").read_text().splitlines()
    return {record["iteration"]: record for record in map(json.loads, lines)}


class Outcome(NamedTuple):
    """What a run of two iterations leaves in its folder."""

    losses: dict[str, float]
    scores: dict[str, Any]
    weights: dict[str, torch.Tensor]

    @classmethod
    def read(cls, folder: Path) -> "Outcome":
        return cls(
            {key: value for key, value in metrics(folder)[1].items() if "loss" in key},
            json.loads((folder / "scores_cityscapes_sem_seg_val.json").read_text()),
            torch.load(folder / "model_final.pth", weights_only=True)["model"],
        )


def test_train_evaluate_resume(train, tmp_path):
    """Trains, writes everything a run leaves behind, evaluates the same weights to the same scores, resumes."""
    short = [*SMALL, "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2"]
    out = tmp_path / "run"
    done = train(*short, "OUTPUT_DIR", out)
    assert done.returncode == 0, done.stderr
    names = {p.name for p in out.iterdir()}
    assert {"model_best.pth", "model_final.pth", "config.yaml", "metrics.json", "last_checkpoint"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names), "TensorBoard"
    assert {"report.html", "report.md", "curves.png"} <= names
    snapshots = [file.stem[-7:] for file in (out / "snapshots" / "cityscapes_sem_seg_val").iterdir()]
    assert set(snapshots) == {"0000001", "0000004"} and len(snapshots) % 2 == 0
    last = metrics(out)[3]
    expected = {f"loss_{n}{s}" for n in ("ce", "mask", "dice", "mask_text") for s in ("", "_1", "_2")}
    assert expected | {"total_loss", "lr", "grad_norm", "data_time"} <= set(last)
    evaluated_at = [iteration for iteration, record in metrics(out).items() if "sem_seg/mIoU" in record]
    assert evaluated_at == [1, 4], "while training and after it"
    scores = json.loads((out / "scores_cityscapes_sem_seg_val.json").read_text())["scores_percent"]

    again = train("--eval-only", *short, "OUTPUT_DIR", tmp_path / "eval", "MODEL.WEIGHTS", out / "model_final.pth")
    assert again.returncode == 0, again.stderr
    evaluated = json.loads((tmp_path / "eval" / "scores_cityscapes_sem_seg_val.json").read_text())["scores_percent"]
    assert evaluated == scores

    resumed = train("--resume", *short, "OUTPUT_DIR", out, "SOLVER.MAX_ITER", "6")
    assert resumed.returncode == 0, resumed.stderr
    assert "Starting training from iteration 4" in resumed.stdout + resumed.stderr
    assert torch.load(out / "model_final.pth", weights_only=True)["iteration"] == 5


def test_same_seed_same_weights(train, tmp_path):
    options = [*SMALL, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", "()"]
    for name in ("a", "b"):
        done = train(*options, "OUTPUT_DIR", tmp_path / name)
        assert done.returncode == 0, done.stderr
    a, b = (torch.load(tmp_path / n / "model_final.pth", weights_only=True)["model"] for n in ("a", "b"))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_two_processes_train_the_same_whoever_starts_them(train, free_url, tmp_path):
    """What torchrun's processes, our own and those of two machines, here one host, arrive at differs in nothing."""
    options = [*SMALL, "SOLVER.MAX_ITER", "2"]

    def machine(rank):
        where = ["--num-machines", 2, "--machine-rank", rank, "--dist-url", free_url]
        return train(*where, *options, "OUTPUT_DIR", tmp_path / "machines")

    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with ThreadPoolExecutor() as both:
        done = [
            train("--num-processes", 2, *options, "OUTPUT_DIR", tmp_path / "ours"),
            train(*options, "OUTPUT_DIR", tmp_path / "torchrun", through=torchrun),
            *both.map(machine, range(2)),
        ]
    for run in done:
        assert run.returncode == 0, run.stderr
    ours, *others = (Outcome.read(tmp_path / name) for name in ("ours", "torchrun", "machines"))
    assert {"total_loss", "loss_ce", "loss_mask_text"} <= set(ours.losses)
    for other in others:
        assert other.losses == ours.losses
        assert other.scores == ours.scores
        assert all(torch.equal(other.weights[key], ours.weights[key]) for key in ours.weights)


def test_baseline_and_bf16(train, tmp_path):
    done = train(
        *SMALL, "SOLVER.MAX_ITER", "2", "SOLVER.AMP.ENABLED", "True", "OUTPUT_DIR", tmp_path,
        config="configs/miniature/mask2former_tiny.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "loss_ce_0" in metrics(tmp_path)[1] and "loss_mask_text" not in metrics(tmp_path)[1]


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["OUTPUT_DIR", "{tmp}"], {"DETECTRON2_DATASETS": "/nowhere"}, ["/nowhere", "DETECTRON2_DATASETS"]),
        (["--eval-only", "MODEL.WEIGHTS", "no.pth", "OUTPUT_DIR", "{tmp}"], {}, ["MODEL.WEIGHTS", "no.pth"]),
        (
            ["--eval-only", "MODEL.WEIGHTS", "a.pth", "MODEL.WEIGHTS_REINIT", "('text',)", "OUTPUT_DIR", "{tmp}"],
            {},
            ["MODEL.WEIGHTS_REINIT ('text',)", "needs every tensor"],
        ),
    ],
)
def test_what_a_user_got_wrong_is_the_last_line(train, run_script, tmp_path, arguments, environment, words):
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    command = ["train_net.py", "--config-file", TINY, "--num-gpus", 0, *arguments]
    done = run_script(*command, **environment) if environment else train(*arguments)
    assert done.returncode in (1, 2)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("train_net.py: error: ") and all(word in last for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_mistake_that_every_process_finds_is_told_once(run_script, tmp_path):
    """And the contradictions of the command line are one sentence too."""
    command = ["train_net.py", "--config-file", TINY, "OUTPUT_DIR", tmp_path]
    command[3:3] = ["--num-processes", 2]
    done = run_script(*command, DETECTRON2_DATASETS="/nowhere")
    assert done.returncode == 1
    assert done.stderr.count("was not found") == 1 and "/nowhere" in done.stderr.strip().splitlines()[-1], done.stderr
    assert "Traceback" not in done.stderr
    command[3:3] = ["--num-gpus", 2]
    done = run_script(*command)
    assert done.returncode == 2
    assert "--num-processes 2" in done.stderr.strip().splitlines()[-1]


def test_clip_weights_that_cannot_be_fetched_are_told_once_before_anything_is_trained(train, tmp_path):
    """One of two processes looks for them, without a network and in an empty cache."""
    options = ["MODEL.CLIP.ARCH", "RN50-quickgelu", "MODEL.CLIP.PRETRAINED", "openai", "OUTPUT_DIR", tmp_path]
    done = train("--num-processes", 2, *SMALL, *options, HF_ENDPOINT="http://127.0.0.1:9", HOME=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("cannot be downloaded") == 1 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "fetch open_clip_model.safetensors" in last and "set MODEL.CLIP.PRETRAINED to the path" in last
    assert "Starting training" not in done.stdout


def test_a_training_starts_from_another_one_with_other_queries(train, tmp_path):
    """From a safetensors file, with the parameters of the queries new."""
    options = [*SMALL, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()"]
    assert train(*options, "OUTPUT_DIR", tmp_path / "first").returncode == 0
    first = torch.load(tmp_path / "first" / "model_final.pth", weights_only=True)["model"]
    save_file({name: tensor.contiguous() for name, tensor in first.items()}, tmp_path / "first.safetensors")
    more = ["MODEL.WEIGHTS", tmp_path / "first.safetensors", "MODEL.MTACLIP.DECODER.NUM_QUERIES", "9"]
    done = train(*options, *more, "MODEL.WEIGHTS_REINIT", "('queries',)", "OUTPUT_DIR", tmp_path / "second")
    assert done.returncode == 0, done.stderr
    assert "decoder.query_content" in (tmp_path / "second" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--num-gpus", "64"], ["--num-gpus 64", "--num-gpus 0"]),
        (["--num-gpus", "0", "DATASETS.TEST", "('cityscape',)"], ["DATASETS.TEST", "cityscape"]),
        (["MODEL.WEIGHTS", "a.pth", "MODEL.WEIGHTS_REINIT", "('class',)"], ["MODEL.WEIGHTS_REINIT", "'class'"]),
        (["MODEL.WEIGHTS_REINIT", "('classes',)"], ["MODEL.WEIGHTS_REINIT", "MODEL.WEIGHTS, which is empty"]),
    ],
)
def test_what_is_wrong_is_found_before_anything_starts(config_path, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr("sys.argv", ["train_net.py"])
    with pytest.raises(SystemExit) as ended:
        main(["--config-file", str(config_path("miniature/mtaclip_tiny.yaml")), *arguments])
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("train_net.py: error: ") and all(word in last for word in words)


REAL = [
    "SOLVER.MAX_ITER", "2",
    "SOLVER.IMS_PER_BATCH", "1",
    "INPUT.CROP.SIZE", "(128,256)",
    "MODEL.CLIP.PRETRAINED", "",
    "INPUT.MIN_SIZE_TEST", "128",
    "INPUT.MAX_SIZE_TEST", "256",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["cityscapes", "ade20k"])
@pytest.mark.parametrize("model", ["mtaclip_R50", "mtaclip_ViT-B16", "mask2former_R50"])
def test_real_models_train_and_evaluate_with_random_weights(train, tmp_path, dataset, model):
    config = f"configs/{dataset}/{model}.yaml"
    done = train(*REAL, "OUTPUT_DIR", tmp_path, config=config)
    assert done.returncode == 0, done.stderr
    done = train("--eval-only", *REAL, "OUTPUT_DIR", tmp_path / "eval", config=config)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "eval").glob("scores_*.json"))


@pytest.mark.parametrize(("expected", "status"), [(0.0, 0), (90.0, 1)])
def test_expected_results_decide_the_exit_status(train, tmp_path, expected, status):
    """Untrained weights score a few percent."""
    options = ["TEST.EXPECTED_RESULTS", f"[['sem_seg', 'mIoU', {expected}, 20.0]]", "OUTPUT_DIR", tmp_path]
    done = train("--eval-only", *SMALL, *options)
    assert done.returncode == status, done.stderr
    words = "Result verification failed" if status else "Results verification passed"
    assert words in done.stdout + done.stderr
    assert (tmp_path / "scores_cityscapes_sem_seg_val.json").is_file()


def test_a_process_may_have_no_image_to_evaluate(run_script, tmp_path):
    """Also right after training, and with the only image's label map already there."""
    root = tmp_path / "datasets"
    drawn = ["--root", root, "--dataset", "cityscapes", "--train", 4, "--val", 1, "--test", 0, "--size", 64, 128]
    assert run_script("datasets/make_miniature.py", *drawn, root=root).returncode == 0
    options = [*SMALL, "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1", "OUTPUT_DIR", tmp_path / "out"]
    command = ["train_net.py", "--config-file", TINY, "--num-gpus", 0, "--num-processes", 2]
    for _ in range(2):
        done = run_script(*command, *options, "TEST.SAVE_PREDICTIONS", "True", root=root)
        assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "out" / "scores_cityscapes_sem_seg_val.json").read_text())
    assert scores["num_images"] == 1


def test_a_final_checkpoint_that_cannot_be_written_ends_all_processes(train, tmp_path):
    (tmp_path / "out" / "model_final.pth").mkdir(parents=True)
    done = train("--num-processes", 2, *SMALL, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", tmp_path / "out")
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("train_net.py: error:")]
    assert "model_final.pth: not written" in error


def test_scores_that_cannot_be_written_do_not_end_a_training_whose_expected_scores_are_checked(train, tmp_path):
    val, other = "cityscapes_sem_seg_val", "cityscapes_sem_seg_train"
    (tmp_path / "out" / f"scores_{val}.json").mkdir(parents=True)
    expected = f"[['{other}/sem_seg', 'mIoU', 50.0, 50.0]]"
    options = [*SMALL, "SOLVER.MAX_ITER", "2", "DATASETS.TEST", f"('{val}','{other}')", "OUTPUT_DIR", tmp_path / "out"]
    done = train(*options, "TEST.EXPECTED_RESULTS", expected)
    assert done.returncode == 0, done.stderr
    assert f"scores_{val}.json: not written" in done.stdout + done.stderr
    assert "Results verification passed" in done.stdout + done.stderr
    assert f"{val}/sem_seg/mIoU" in (tmp_path / "out" / "metrics.json").read_text()
    weights = ["MODEL.WEIGHTS", tmp_path / "out" / "model_final.pth"]
    again = train("--eval-only", *options, *weights, "DATASETS.TEST", f"('{val}',)")
    assert again.returncode == 1 and "not written" in again.stderr.strip().splitlines()[-1]
    assert "4 images:" in again.stdout
