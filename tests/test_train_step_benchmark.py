"""The benchmark of a training step runs, compares like with like, and writes what it measured."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks"
SMALL = ["--config", "miniature/tiny", "--sizes", "64x64", "--rounds", "1", "--threads", "1"]
PARTS = {"data", "backbone", "pixel decoder", "decoder", "criterion", "backward", "optimizer", "other"}

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed (the extra `bench`)"
)


@pytest.fixture
def load(monkeypatch):
    """A function from a name to the module of that name in benchmarks/."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def run(*options: str | Path, script: str = "train_step.py") -> str:
    command = [sys.executable, "-W", "ignore", str(FOLDER / script), *map(str, options)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_take_turns_and_the_figures_are_written(tmp_path, load, monkeypatch, caplog):
    models = ["mtaclip", "mask2former"] + (["transformers"] if importlib.util.find_spec("transformers") else [])
    file = tmp_path / "results" / "step.json"
    run(*SMALL, "--types", "bfloat16", "--no-memory", "--models", *models, "--output", file)
    report = json.loads(file.read_text())
    assert report["machine"]["threads"] == 1 and report["versions"]["mtaclip"]
    (row,) = report["results"]
    assert (row["size"], row["batch"], row["type"]) == ([64, 64], 1, "bfloat16")
    measured = row["implementations"]
    assert list(measured) == models
    for name, figures in measured.items():
        assert "failed" not in figures
        assert len(figures["seconds"]) == 1 and figures["median_s"] > 0
        assert set(figures["parts_s"]) == PARTS | ({"text"} if name == "mtaclip" else set())
        for other, ratio in figures["ratios"].items():
            assert ratio == pytest.approx(figures["median_s"] / measured[other]["median_s"], rel=0.05)
    # The frozen text tower is in the model and not among what is trained.
    assert measured["mtaclip"]["trained_m"] < measured["mtaclip"]["parameters_m"]
    assert measured["mask2former"]["trained_m"] == measured["mask2former"]["parameters_m"]

    monkeypatch.setattr(sys, "argv", ["train_step.py", "--table", str(file)])
    with caplog.at_level("INFO", logger="train_step"):
        assert load("train_step").main() == 0
    lines = next(record.message for record in caplog.records if record.name == "train_step").splitlines()
    assert lines[0].startswith("| case | mtaclip, s | mask2former, s |")
    assert lines[2].startswith(f"| 64 x 64, 1 image, bfloat16 | {measured['mtaclip']['median_s']:.3f} |")


def test_variants_are_measured_beside_the_defaults(tmp_path):
    file = tmp_path / "variants.json"
    also = ["--also", "channels first", "recompute"]
    run(*SMALL, "--models", "mask2former", "--no-memory", "--no-breakdown", *also, "--output", file)
    (row,) = json.loads(file.read_text())["results"]
    assert list(row["implementations"]) == ["mask2former", "mask2former, channels first", "mask2former, recompute"]


def test_growth_writes_figures_and_a_plot(tmp_path):
    file = tmp_path / "growth.json"
    run(*SMALL, "--models", "mtaclip", "--growth", "classes=300", "--no-breakdown", "--output", file)
    (row,) = json.loads(file.read_text())["results"]
    assert (row["factor"], row["value"], row["classes"]) == ("classes", 300, 300)
    figures = row["implementations"]["mtaclip"]
    assert 0 < figures["peak_mb"] < 4000
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_images_are_the_same_for_all_and_hold_several_classes(load):
    models = load("train_step_models")
    case = models.Case("cityscapes/R50", (128, 256), 3, "float32")
    samples, again = models.make_samples(case, 19), models.make_samples(case, 19)
    assert len(samples) == 3
    for sample, same in zip(samples, again, strict=True):
        assert torch.equal(sample["image"], same["image"]) and torch.equal(sample["sem_seg"], same["sem_seg"])
        assert sample["image"].shape == (3, 128, 256) and sample["image"].dtype == torch.uint8
        present = sample["sem_seg"].unique()
        assert 6 <= len(present) <= 12 and present.max() < 19
    assert not torch.equal(samples[0]["sem_seg"], samples[1]["sem_seg"])
    assert max(s["sem_seg"].max() for s in models.make_samples(case, 847)) < 255  # which is ignored


@needs_transformers
def test_hugging_face_has_the_sizes_and_the_targets_of_our_baseline(load, tmp_path):
    models = load("train_step_models")
    case = models.Case("miniature/tiny", (64, 96), 2, "float32")
    theirs = models.make_model("transformers", case, "cpu", tmp_path)
    ours = models.make_model("mask2former", case, "cpu", tmp_path)
    decoder = theirs.model.model.transformer_module.decoder
    assert len(decoder.layers) == len(ours.model.decoder.layers) == 3
    assert len(theirs.model.model.pixel_level_module.decoder.encoder.layers) == len(ours.model.pixel_decoder.layers)
    channels = [ours.model.backbone.channels[f"res{i}"] for i in range(2, 6)]
    assert theirs.model.model.pixel_level_module.encoder.channels == channels
    # The same parts at the same sizes: they differ in the stem of the image tower and little else.
    assert theirs.held()["trained_m"] == pytest.approx(ours.held()["trained_m"], rel=0.05)
    samples = models.make_samples(case, ours.classes)
    images, masks, labels = theirs.prepare(samples)
    assert images.shape == (2, 3, 64, 96)
    for sample, mask, present in zip(samples, masks, labels, strict=True):
        assert (mask.sum(0) == 1).all()
        assert torch.equal(present[mask.argmax(0)], sample["sem_seg"].long())


def test_classes_and_contexts_of_a_case_reach_the_model(load, tmp_path):
    models = load("train_step_models")
    case = models.Case("miniature/tiny", (64, 64), 1, "float32", classes=300, contexts=3)
    trained = models.make_model("mtaclip", case, "cpu", tmp_path)
    assert trained.classes == 300
    assert trained.model.texts().shape == (3, 301, 64)
    trained.step(trained.prepare(models.make_samples(case, 300)))
    assert trained.model.texts.contexts.grad.abs().sum() > 0


def test_vocabularies_of_any_size_fit_the_token_budget(load, tmp_path):
    models = load("train_step_models")
    models.make_vocabulary(847, tmp_path / "words.txt")
    from mtaclip.data.vocabulary import load_vocabulary
    from mtaclip.modeling.text_encoder import tokenize

    assert tokenize(load_vocabulary(tmp_path / "words.txt", 847), 5).shape == (847, 5)
    with pytest.raises(ValueError, match="classes must be 2 to"):
        models.make_vocabulary(5000, tmp_path / "words.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "100x100"], "multiples of 32"),
        (["--sizes", "512"], "HEIGHTxWIDTH"),
        (["--growth", "colour=1"], "none of size, batch, classes, contexts"),
        (["--growth", "batch=0"], "is not like batch=1,2,4"),
        (["--rounds", "0"], "not a positive number"),
    ],
)
def test_wrong_options_are_explained(load, capsys, options, message):
    with pytest.raises(SystemExit):
        load("train_step").make_parser().parse_args(options)
    assert message in capsys.readouterr().err


def test_profile_counts_the_products_of_a_step(tmp_path):
    """Twice the pixels cost about twice the operations; the times of all parts are of one step."""
    counted = []
    for size in ("64x64", "64x128"):
        file = tmp_path / f"{size}.json"
        options = ["--config", "miniature/tiny", "--size", size, "--types", "float32", "--models", "mask2former"]
        run(*options, "--steps", "1", "--output", file, script="train_step_profile.py")
        (row,) = json.loads(file.read_text())["results"]
        figures = row["models"]["mask2former"]
        counted.append(figures["gflop_of_products"])
        assert figures["products_at_best_s"] == pytest.approx(counted[-1] / row["gflop_per_s"], abs=1e-3)
        assert 0 < sum(figures["largest_of_the_rest_s"].values()) <= figures["rest_s"] + 1e-3
    assert 1.5 < counted[1] / counted[0] < 2.2
