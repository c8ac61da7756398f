"""Classes of one's own on the command lines, with a tiny random model in real files."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mtaclip.alignment import explain, explain_with_truth
from mtaclip.data.vocabulary import load_test_vocabulary, load_vocabulary
from mtaclip.engine import setup_cfg
from mtaclip.engine.evaluation import build_evaluator
from mtaclip.modeling.build import build_model
from mtaclip.predictor import Predictor
from projects.MTACLIP import app, demo, train_net

ROOT = Path(__file__).resolve().parents[2]
NAMES = load_vocabulary("cityscapes", 19)
TEXT = ["TEST.CLASSIFIER", "text"]


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    """An image with a few things to tell apart, (64, 96, 3)."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (4, 6, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, config_path, street) -> Path:
    """A tiny random model, blown up so that its masks are sharp and of several classes, with its config.

    Versions of PyTorch draw other weights from the same seed: the first that sees several classes is taken.
    """
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), device="cpu")
    folder = tmp_path_factory.mktemp("vocabulary")
    Image.fromarray(street).save(folder / "street.png")
    for seed in range(20):
        torch.manual_seed(seed)
        model = build_model(cfg)
        with torch.no_grad():
            model.decoder.alignment.gamma.fill_(1.0)
            model.decoder.query_position.mul_(20)
            model.decoder.mask_head[-1].weight.mul_(30)
        torch.save({"model": model.state_dict(), "config": cfg.dump()}, folder / "tiny.pth")
        seen = Predictor.from_checkpoint(folder / "tiny.pth", "cpu", TEXT)(street).labels
        if len(np.unique(seen)) > 3:
            return folder / "tiny.pth"
    pytest.fail("no seed gives several classes")


@pytest.fixture
def ids(checkpoint, config_path, tmp_path):
    """A function that runs the demo and returns the label map."""

    def run(*arguments: str, opts=TEXT) -> np.ndarray:
        command = ["--config-file", str(config_path("miniature/mtaclip_tiny.yaml")), *arguments]
        command += ["--input", str(checkpoint.parent / "street.png"), "--output", str(tmp_path / "out")]
        command += ["--save", "ids", "colours", "legend", "--opts", "MODEL.WEIGHTS", str(checkpoint), *opts]
        assert demo.main(command) == 0
        return np.array(Image.open(tmp_path / "out" / "street_ids.png"))

    return run


def colours(tmp_path) -> np.ndarray:
    return np.array(Image.open(tmp_path / "out" / "street_colours.png"))


def test_classes_in_another_order_and_in_capitals_permute_the_label_map(ids, tmp_path):
    trained = ids()
    before = colours(tmp_path)
    assert len(np.unique(trained)) > 3
    order = np.random.default_rng(1).permutation(19)
    permuted = ids("--vocabulary", "; ".join(NAMES[old].upper() for old in order))
    assert np.array_equal(order[permuted], trained)
    assert np.array_equal(colours(tmp_path), before), "a class keeps its colour"


def test_a_file_says_the_same_as_names(ids, tmp_path):
    (tmp_path / "own.txt").write_text("# mine\ntram\ncar\nroad\nsky\n")
    by_file = ids("--vocabulary", str(tmp_path / "own.txt"))
    assert np.array_equal(by_file, ids("--vocabulary", "tram; car; road; sky")) and by_file.max() < 4


def test_a_name_for_what_a_class_was_trained_as_renames_it(checkpoint, config_path, ids, tmp_path):
    """The vocabulary of the training calls a class by two texts; the first one is its name."""
    (tmp_path / "trained.txt").write_text("\n".join(["road; street", *NAMES[1:]]))
    trained = ["MODEL.MTACLIP.TEXT.VOCABULARY", str(tmp_path / "trained.txt"), *TEXT]
    before = ids(opts=trained)
    renamed = ids("--vocabulary", "; ".join(["Road", *NAMES[1:]]), opts=trained)
    assert np.array_equal(renamed, before)


def test_classes_nobody_trained_are_told_apart_and_drawn(ids, tmp_path):
    found = ids("--vocabulary", "puddle; road; bench", "--classes", "puddle, bench")
    assert set(np.unique(found)) <= {0, 2, 255}
    shown = {tuple(colour) for colour in colours(tmp_path)[found != 255].tolist()}
    assert len(shown) == len(set(np.unique(found)) - {255}) and (128, 64, 128) not in shown


@pytest.mark.parametrize(
    ("arguments", "opts", "message"),
    [
        (["--vocabulary", "road; tram"], [], "set TEST.CLASSIFIER to 'text'"),
        (["--vocabulary", "road;; tram"], TEXT, "TEST.VOCABULARY, name 2 is empty"),
        (["--vocabulary", ""], TEXT, "--vocabulary names no class"),
        (["--vocabulary", "3"], TEXT, "TEST.VOCABULARY is '3', which is neither"),
        (["--vocabulary", "road; a puddle in the rain"], TEXT, "'a puddle in the rain' has 5 tokens"),
        (["--vocabulary", "road; tram", "--classes", "car"], TEXT, "the classes are: road, tram"),
        (["--vocabulary", "road; tram"], ["MODEL.MTACLIP.TEXT.ENABLED", "False"], "take a model with a text side"),
    ],
)
def test_what_is_wrong_is_one_sentence(checkpoint, config_path, capsys, tmp_path, arguments, opts, message):
    command = ["--config-file", str(config_path("miniature/mtaclip_tiny.yaml")), *arguments]
    command += ["--input", str(checkpoint.parent / "street.png"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="2"):
        demo.main([*command, "--opts", "MODEL.WEIGHTS", str(checkpoint), *opts])
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_the_alignment_is_that_of_the_classes(checkpoint, street):
    predictor = Predictor.from_checkpoint(checkpoint, "cpu", [*TEXT, "TEST.VOCABULARY", "tram; car; road"])
    found = explain(predictor, street)
    assert found.texts == ("tram", "car", "road", "none")
    assert found.similarity.shape == (2, 30, 4) and found.text_embeddings.shape == (2, 4, 64)
    assert np.linalg.norm(found.text_embeddings, axis=-1) == pytest.approx(np.ones((2, 4)), abs=1e-5)
    with pytest.raises(ValueError, match=r"trained classes: leave TEST\.VOCABULARY empty"):
        explain_with_truth(predictor, street, np.zeros((64, 96), np.uint8))


def test_an_evaluation_needs_the_classes_of_its_dataset(miniature, config_path, tmp_path):
    (tmp_path / "synonyms.txt").write_text("\n".join(["Road; street", *NAMES[1:]]))

    def evaluator(vocabulary):
        options = [*TEXT, "OUTPUT_DIR", str(tmp_path), "TEST.VOCABULARY", vocabulary]
        cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), options, device="cpu")
        return build_evaluator(cfg, "cityscapes_sem_seg_val")

    assert evaluator(str(tmp_path / "synonyms.txt")) is not None
    for wrong in ("; ".join(reversed(NAMES)), "road; sidewalk", "; ".join([*NAMES, "tram"])):
        with pytest.raises(ValueError, match=r"TEST\.VOCABULARY has \d+ classes that are not the 19 .*road, sidewalk"):
            evaluator(wrong)


def test_the_documented_commands_are_understood():
    page = (ROOT / "docs/vocabulary.md").read_text(encoding="utf-8")
    programs = {"demo": demo, "app": app, "train_net": train_net}
    commands = re.findall(r"python (?:projects/MTACLIP/)?(\w+)\.py (--.*)", page)
    assert {name for name, _ in commands} == set(programs)
    for name, words in commands:
        args = programs[name].make_parser().parse_args(shlex.split(words))
        cfg = setup_cfg(ROOT / (args.config_file or "configs/miniature/mtaclip_tiny.yaml"), args.opts, device="cpu")
        assert name != "demo" or len(load_test_vocabulary(args.vocabulary)) > 1
        assert "--eval-only" not in words or cfg.TEST.VOCABULARY
