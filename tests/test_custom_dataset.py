"""docs/custom_dataset.md: its four commands, as they stand there, train a model on a drawn dataset with 4 classes."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtaclip.data.labels import read_label_map
from mtaclip.predictor import Predictor
from mtaclip.visualization import Palette
from projects.MTACLIP import alignment, check_dataset, demo

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "custom_dataset.md"
SMALL = [
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.CROP.SIZE", "(64,96)",
    "MODEL.MTACLIP.LOSS.NUM_POINTS", "256",
    "SOLVER.MAX_ITER", "60",
    "SOLVER.WARMUP_ITERS", "5",
    "DATALOADER.NUM_WORKERS", "0",
]  # fmt: skip


def commands(folder: Path) -> list[list[str]]:
    """The Python commands of the page, for the tiny model on a CPU and below `folder`."""
    (drawing,), (*four,) = (
        [line for line in block.splitlines() if line.startswith("python ")]
        for block in re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    )
    lines = [drawing, *four]
    for old, new in (
        ("mtaclip_R50", "mtaclip_tiny"),
        ("my_dataset", f"{folder}/my_dataset"),
        ("output/", f"{folder}/output/"),
        ("--num-gpus 1", "--num-gpus 0"),
    ):
        lines = [line.replace(old, new) for line in lines]
    return [shlex.split(line)[1:] for line in lines]


def test_the_documented_commands_train_a_model(tmp_path, run_script, capsys):
    draw, (_, *check), train, evaluate, (_, *look) = commands(tmp_path)
    output = tmp_path / "output" / "custom" / "mtaclip_tiny"
    own = [*SMALL, "OUTPUT_DIR", str(output)]

    def run(*command):
        done = run_script(*command)
        assert done.returncode == 0, done.stderr

    run(*draw, "--size", "64", "96", "--train", "24", "--val", "8")
    assert check_dataset.main(check) == 0
    assert "No problem was found." in capsys.readouterr().out
    run(*train, *own)
    run(*evaluate, *own, "OUTPUT_DIR", str(tmp_path / "again"))
    assert demo.main([*look, *own]) == 0

    scores, again = (
        json.loads((place / "scores_folder_val.json").read_text()) for place in (output, tmp_path / "again")
    )
    assert scores["class_names"] == ["table", "disc", "square", "triangle"]
    assert again["scores_percent"] == scores["scores_percent"]
    # Always "table" has a quarter of the table's IoU, which is below 100.
    assert again["scores_percent"]["mIoU"] > 60
    pictures = {file.name for file in (tmp_path / "output" / "custom" / "pictures").iterdir()}
    assert {"0000_overlay.png", "0007_ids.png"} <= pictures

    where = ["--config-file", output / "config.yaml", "--dataset", "folder_val", "--limit", 1, "--view", "segments"]
    weights = ["--opts", "MODEL.WEIGHTS", str(output / "model_best.pth")]
    assert alignment.main([*map(str, where), "--output", str(tmp_path / "alignment"), *weights]) == 0
    assert (tmp_path / "alignment" / "0000_segments.svg").is_file()

    # Elsewhere, with the checkpoint alone.
    image = shutil.copy(tmp_path / "my_dataset" / "images" / "val" / "0000.jpg", tmp_path / "photo.jpg")
    truth = np.array(Image.open(tmp_path / "my_dataset" / "labels" / "val" / "0000.png"))
    (tmp_path / "my_dataset").rename(tmp_path / "gone")
    predictor = Predictor.from_checkpoint(output / "model_best.pth", device="cpu")
    assert (predictor(image).labels == truth).mean() > 0.9
    assert Palette.from_config(predictor.cfg).names == ("table", "disc", "square", "triangle")
    where = ["--config-file", output / "config.yaml", "--input", image, "--output", tmp_path / "more"]
    assert demo.main([*map(str, where), *weights]) == 0


def test_a_drawing_replaces_nothing(shapes, run_script):
    done = run_script("datasets/make_shapes.py", "--root", shapes)
    assert done.returncode == 1
    assert done.stderr == f"make_shapes.py: {shapes} exists: choose another folder with --root\n"


def spoil(root: Path, kind: str) -> None:
    """Make one kind of mistake in a dataset."""
    for label in (root / "labels" / "train").iterdir():
        if kind == "colours":
            Image.open(label).convert("RGB").save(label)
        elif kind == "values":
            Image.fromarray(np.array(Image.open(label)) + 1).save(label)
        elif kind == "missing" and label.stem == "0003":
            label.unlink()
    if kind == "empty":
        shutil.rmtree(root / "images" / "train")
    if kind == "duplicates":
        (root / "classes.txt").write_text("a\na\n")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("colours", "its mode is RGB: is it a colour picture of the labels"),
        pytest.param(
            "values",
            "holds the value(s) 4, which label format 'train_ids' does not have",
            marks=pytest.mark.slow,
        ),
        pytest.param("missing", "has no label file: looked for", marks=pytest.mark.slow),
        pytest.param("empty", "images/train does not exist", marks=pytest.mark.slow),
        pytest.param("duplicates", "classes.txt, line 2: 'a' is also line 1", marks=pytest.mark.slow),
    ],
)
def test_a_training_on_wrong_files_ends_in_a_sentence(shapes, tmp_path, run_script, kind, words):
    shutil.copytree(shapes, tmp_path / "spoiled")
    spoil(tmp_path / "spoiled", kind)
    options = [*SMALL, "DATASETS.FOLDER.ROOT", tmp_path / "spoiled", "OUTPUT_DIR", tmp_path / "output"]
    done = run_script("train_net.py", "--config-file", "configs/custom/mtaclip_tiny.yaml", "--num-gpus", 0, *options)
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr
    assert words in done.stderr.splitlines()[-1]


def test_the_page_explains_messages_as_they_are(tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    labels = tmp_path / "a.png"
    for picture in (Image.new("RGB", (2, 2)), Image.new("L", (2, 2), 4)):
        picture.save(labels)
        with pytest.raises(ValueError) as error:
            read_label_map(labels, "train_ids", 4)
        assert any(message in str(error.value) for message in re.findall(r"^\| `(.*?)`", page, re.M)), error.value
