import argparse
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import Tensor, nn

from projects.MTACLIP import demo

DATASET = "demo_test_sem_seg"
COMMON = Path(__file__).parents[2] / "configs" / "bases" / "common.yaml"


@META_ARCH_REGISTRY.register()
class DemoTestModel(nn.Module):
    """Predicts the class whose colour channel, weighted, is brightest."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(3))

    def forward(self, inputs: list[dict]) -> list[dict[str, Tensor]]:
        images = [item["image"].float() * self.weights[:, None, None] for item in inputs]
        sizes = [(item["height"], item["width"]) for item in inputs]
        resize = nn.functional.interpolate
        scores = [resize(x[None], size=size)[0] for x, size in zip(images, sizes, strict=True)]
        return [{"labels": x.argmax(0).to(torch.uint8)} for x in scores]


@pytest.fixture
def command(tmp_path):
    """Arguments of a working model, without --input; the dataset's colours are those of the image channels."""
    DatasetCatalog.register(DATASET, list)
    MetadataCatalog.get(DATASET).set(
        stuff_classes=["red", "green", "blue"],
        stuff_colors=[(255, 0, 0), (0, 255, 0), (0, 0, 255)],
        ignore_label=255,
        evaluator_type="mtaclip_sem_seg",
    )
    torch.save({"model": {"weights": torch.ones(3)}}, tmp_path / "model.pth")
    config = tmp_path / "model.yaml"
    config.write_text(
        f"""\
_BASE_: {COMMON}
MODEL:
  META_ARCHITECTURE: DemoTestModel
  DEVICE: cpu
  SEM_SEG_HEAD: {{NUM_CLASSES: 3}}
DATASETS: {{TRAIN: [{DATASET}], TEST: [{DATASET}]}}
INPUT: {{MIN_SIZE_TEST: 32, MAX_SIZE_TEST: 64}}
"""
    )
    yield [
        "--config-file",
        str(config),
        "--output",
        str(tmp_path / "out"),
        "MODEL.WEIGHTS",
        str(tmp_path / "model.pth"),
    ]
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


@pytest.fixture
def log():
    """Messages of the demo and the package."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("mtaclip")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def write_image(file: Path, colour: tuple[int, int, int]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (48, 32), colour).save(file)
    return file


def ids(folder: Path, stem: str) -> set[int]:
    return set(np.unique(np.array(Image.open(folder / f"{stem}_ids.png"))).tolist())


def test_files_folders_and_patterns_are_segmented(command, log, tmp_path):
    write_image(tmp_path / "one.jpg", (250, 0, 0))
    write_image(tmp_path / "folder" / "deep" / "two.PNG", (0, 250, 0))
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    write_image(tmp_path / "shots" / "three.png", (0, 0, 250))
    inputs = [tmp_path / "one.jpg", tmp_path / "folder", tmp_path / "shots" / "*.png"]
    assert demo.main(["--input", *map(str, inputs), *command]) == 0
    out = tmp_path / "out"
    kinds = ("colour", "ids", "legend", "overlay")
    assert sorted(file.name for file in out.iterdir()) == [
        f"{stem}_{kind}.png" for stem in ("one", "three", "two") for kind in kinds
    ]
    assert [ids(out, stem) for stem in ("one", "two", "three")] == [{0}, {1}, {2}]
    assert Image.open(out / "two_colour.png").getpixel((0, 0)) == (0, 255, 0)
    assert log[-1] == f"3 of 3 images segmented; the pictures are in {out}"


def test_an_unreadable_file_is_named_the_rest_goes_on_and_the_exit_code_is_1(command, log, tmp_path):
    bad = tmp_path / "a_broken.png"
    bad.write_bytes(b"not a picture")
    good = write_image(tmp_path / "b_good.png", (0, 0, 250))
    assert demo.main(["--input", str(bad), str(good), str(tmp_path / "absent.png"), *command]) == 1
    assert ids(tmp_path / "out", "b_good") == {2}
    assert sum("a_broken.png" in message for message in log) == 1
    assert sum("absent.png" in message for message in log) == 1
    assert log[-1].startswith("1 of 2 images segmented")


def test_images_of_the_same_name_do_not_overwrite_each_other(command, tmp_path):
    write_image(tmp_path / "a" / "x.png", (250, 0, 0))
    write_image(tmp_path / "b" / "x.png", (0, 250, 0))
    write_image(tmp_path / "b" / "y.png", (0, 0, 250))
    assert demo.main(["--input", str(tmp_path / "a"), str(tmp_path / "b"), *command]) == 0
    assert [ids(tmp_path / "out", stem) for stem in ("a_x", "b_x", "y")] == [{0}, {1}, {2}]


def test_no_input_is_one_sentence_and_exit_code_2(command, log, tmp_path):
    (tmp_path / "empty").mkdir()
    assert demo.main(["--input", str(tmp_path / "empty"), str(tmp_path / "*.gif"), *command]) == 2
    assert len(log) == 1
    assert "--input: no image found in" in log[0]
    assert not (tmp_path / "out").exists()


def test_options_may_follow_opts_and_errors_of_the_config_are_one_sentence(command, log, tmp_path):
    image = write_image(tmp_path / "x.png", (250, 0, 0))
    with_opts = [*command[:4], "--opts", *command[4:]]
    assert demo.main(["--input", str(image), *with_opts]) == 0
    log.clear()
    assert demo.main(["--input", str(image), *command, "MODEL.WEIGHTS", str(tmp_path / "none.pth")]) == 2
    assert len(log) == 1
    assert "none.pth" in log[0]


def test_opacity_is_used_and_checked(command, tmp_path):
    image = write_image(tmp_path / "x.png", (0, 100, 0))
    for opacity, colour in (("0", (0, 100, 0)), ("1", (0, 255, 0))):
        assert demo.main(["--input", str(image), "--opacity", opacity, *command]) == 0
        assert Image.open(tmp_path / "out" / "x_overlay.png").getpixel((3, 3)) == colour
    with pytest.raises(SystemExit) as ended:
        demo.main(["--input", str(image), "--opacity", "1.5", *command])
    assert ended.value.code == 2
    with pytest.raises(argparse.ArgumentTypeError, match="1.5 does not lie between 0 and 1"):
        demo.share("1.5")


def test_results_do_not_become_inputs(command, log, tmp_path):
    write_image(tmp_path / "x.png", (250, 0, 0))
    for _ in range(2):
        assert demo.main(["--input", str(tmp_path), *command]) == 0
    assert log[-1].startswith("1 of 1 images")
    assert demo.main(["--input", str(tmp_path / "out"), *command]) == 2
    assert "is an input folder, too" in log[-1]


def test_output_stems_differ_even_in_upper_and_lower_case():
    files = [Path(name) for name in ("/a/x.jpg", "/b/X.jpg", "/b/x.png", "/c/y.jpg", "/p/a/z.png", "/q/a/z.png")]
    stems = demo.output_stems(files)
    assert stems == ["a_x", "b_X_jpg", "b_x_png", "y", "a_z_png", "a_z_png-2"]
    assert len({stem.lower() for stem in stems}) == len(files)
