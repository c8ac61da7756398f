"""check_dataset.py on drawn datasets, whole and broken."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from projects.MTACLIP.check_dataset import main

CONFIG = "configs/custom/mtaclip_R50.yaml"


def check(root: Path, *options: object) -> int:
    return main(["--config-file", CONFIG, "--workers", "0", *map(str, options), "DATASETS.FOLDER.ROOT", str(root)])


def rows(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines() if line.startswith("|")]


@pytest.fixture
def broken(shapes, tmp_path) -> Path:
    """A copy of the shapes with one file of every kind of problem."""
    root = tmp_path / "broken"
    shutil.copytree(shapes, root)
    images, labels = root / "images" / "train", root / "labels" / "train"
    Image.open(images / "0000.jpg").save(labels / "0000.png")
    outside = np.array(Image.open(labels / "0001.png"))
    outside[0, :3] = 9
    Image.fromarray(outside).save(labels / "0001.png")
    (labels / "0002.png").unlink()
    (labels / "zzz.png").touch()
    (images / "0003.jpg").write_bytes((images / "0003.jpg").read_bytes()[:500])
    (images / "0004.jpg").write_bytes(b"")
    Image.fromarray(outside[:10, :] % 4).save(labels / "0005.png")
    shutil.copy(root / "images" / "val" / "0000.jpg", images / "0006.jpg")
    (labels / "0007.png").write_bytes(b"not an image")
    return root


def test_a_whole_dataset_is_described_and_drawn(shapes, tmp_path, run_script):
    page, picture = tmp_path / "page.html", tmp_path / "new" / "picture.png"
    options = ["--html", page, "--picture", picture, "DATASETS.FOLDER.ROOT", shapes]
    done = run_script("projects/MTACLIP/check_dataset.py", "--config-file", CONFIG, *options)
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [r"folder\_train", "24", "24", *["64 x 96"] * 3, "1"] in found
    assert [r"folder\_val", "8", "8", *["64 x 96"] * 3, "1"] in found
    counts = np.zeros((2, 4), np.int64)
    for file in (shapes / "labels" / "train").iterdir():
        pixels = np.bincount(np.array(Image.open(file)).ravel(), minlength=4)
        counts += np.stack([pixels, pixels > 0])
    for index, name in enumerate(("table", "disc", "square", "triangle")):
        (row,) = (row for row in found if row[0] == name)
        assert row[1:4] == [str(index), f"{100 * counts[0, index] / counts[0].sum():.2f}", str(counts[1, index])]
    assert done.stdout.endswith("No problem was found.\n")
    texts: list[str] = []
    parser = HTMLParser()
    parser.handle_data = texts.append
    parser.feed(page.read_text(encoding="utf-8"))
    assert {"folder_train", "triangle", "Samples", "No problem was found."} <= set(texts)
    assert Image.open(picture).size[0] > 1000


def test_every_kind_of_problem_is_found(broken, capsys):
    assert check(broken) == 1
    out = capsys.readouterr().out
    train = broken / "labels" / "train"
    for heading, line in (
        ("label maps without image (1)", f"{train / 'zzz.png'}"),
        ("images without label map (1)", f"images/train/0002.jpg (looked for {train / '0002.png'})"),
        ("files that cannot be used (4)", f"{train / '0000.png'} must hold one 8-bit class id"),
        ("files that cannot be used (4)", "images/train/0003.jpg cannot be read"),
        ("files that cannot be used (4)", "images/train/0004.jpg cannot be read"),
        ("files that cannot be used (4)", f"{train / '0007.png'} cannot be read"),
        ("different sizes (1)", "0005.jpg is 64 x 96, its label map 10 x 96 (height x width)"),
        ("label values that are no class (1)", f"9 in 1 label map(s), 3 pixel(s), first in {train / '0001.png'}"),
        ("images that are in two datasets (1)", f"{train.parents[1] / 'images/train/0006.jpg'} of folder"),
    ):
        assert heading in out and line in out.replace("\\", ""), (heading, line)
    assert out.endswith("9 problem(s) were found.\n")


def test_two_splits_of_the_same_files_are_found(shapes, capsys):
    folders = ["DATASETS.FOLDER.IMAGES", "images/train", "DATASETS.FOLDER.LABELS", "labels/train"]
    command = ["--config-file", CONFIG, "--workers", "0", "DATASETS.FOLDER.ROOT", str(shapes)]
    assert main([*command, *folders]) == 1
    out = capsys.readouterr().out.replace("\\", "")
    assert "folder_val: images that are in two datasets (24)" in out
    assert "images/train/0000.jpg is also an image of folder_train." in out


def test_a_dataset_that_is_named_twice_is_read_once(miniature, capsys):
    assert main(["--workers", "0", *["--dataset", "cityscapes_sem_seg_val"] * 2]) == 0
    assert sum(row[0] == r"cityscapes\_sem\_seg\_val" for row in rows(capsys.readouterr().out)) == 1


def test_images_that_share_a_label_map_are_a_problem(shapes, tmp_path, capsys):
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    image = tmp_path / "images" / "train" / "0000.jpg"
    Image.open(image).save(image.with_suffix(".png"))
    assert check(tmp_path) == 1
    out = capsys.readouterr().out.replace("\\", "")
    assert "folder_train: label maps of several images (1)" in out
    assert f"labels/train/0000.png of {image}, {image.with_suffix('.png')}" in out


def test_long_lists_are_cut(shapes, tmp_path, capsys):
    shutil.copytree(shapes / "images", tmp_path / "images")
    shutil.copy(shapes / "classes.txt", tmp_path)
    assert check(tmp_path, "--picture", tmp_path / "none.png") == 1
    out = capsys.readouterr().out
    assert r"folder\_train: images without label map (24)" in out and "... and 14 more" in out
    assert "none.png is not written: there is no image with usable labels." in out
    assert not (tmp_path / "none.png").exists()


def test_classes_that_never_occur_are_no_problem(shapes, tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    classes.write_text("table\ndisc\nsquare\ntriangle\nstar\n")
    assert check(shapes, "DATASETS.FOLDER.CLASSES", classes) == 0
    assert r"folder\_val never shows 1 of 5 classes: star." in capsys.readouterr().out


def test_missing_and_empty_folders_are_problems(shapes, tmp_path, capsys):
    shutil.copy(shapes / "classes.txt", tmp_path)
    (tmp_path / "images" / "train").mkdir(parents=True)
    assert check(tmp_path, "--html", tmp_path / "page.html") == 1
    out = capsys.readouterr().out.replace("\\", "")
    assert "images/train holds no image" in out and "images/val does not exist" in out


def test_folders_without_a_config(shapes, capsys):
    folders = ["--images", shapes / "images", "--labels", shapes / "labels", "--classes", shapes / "classes.txt"]
    assert main([*map(str, folders), "--workers", "0"]) == 0
    assert ["images", "32", "32", *["64 x 96"] * 3, "1"] in rows(capsys.readouterr().out)
    # Read as "0 is ignored, k = the k-th class", the table is ignored and the classes move up.
    assert main([*map(str, folders), "--workers", "0", "--label-format", "ade20k"]) == 0
    out = capsys.readouterr().out
    assert "never shows 1 of 4 classes: triangle" in out
    assert float(rows(out)[-1][2]) > 50


def test_registered_datasets(miniature, capsys):
    """Cityscapes with and without labels, and ADE20K."""
    names = ["--dataset", "cityscapes_sem_seg_val", "--dataset", "cityscapes_sem_seg_test"]
    assert main([*names, "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert [r"cityscapes\_sem\_seg\_test", "1", "0", *["64 x 128"] * 3, "1"] in rows(out)
    assert main(["--dataset", "ade20k_150_sem_seg_val", "--workers", "0"]) == 0
    assert [r"ade20k\_150\_sem\_seg\_val", "4", "4", *["64 x 128"] * 3, "1"] in rows(capsys.readouterr().out)


def test_a_missing_registered_dataset_is_a_problem(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert main(["--dataset", "cityscapes_sem_seg_val", "--workers", "0"]) == 1
    assert "Cityscapes (val) was not found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a dataset"),
        (["--images", "x"], "give all three or none"),
        (["--dataset", "mine"], "'mine' is not registered"),
        (["--dataset", "cityscapes_sem_seg_val", "--workers", "-1"], "--workers must be 0 or more"),
        (["--dataset", "cityscapes_sem_seg_val", "--html", "x.md"], r"--html: the file must end in \.html, got x\.md"),
        (["--dataset", "cityscapes_sem_seg_val", "--picture", "x.jpg"], r"--picture: the file must end in \.png"),
        (["--dataset", "cityscapes_fine_panoptic_val"], "'cityscapes_fine_panoptic_val' cannot be listed"),
        (["--dataset", "cityscapes_sem_seg_val", "DATASETS.FOLDER.ROOT", "x"], "need a --config-file"),
        (["--config-file", CONFIG], r"DATASETS\.FOLDER\.ROOT is empty"),
        (["--config-file", CONFIG, "DATASETS.FOLDER.ROOT", "nowhere"], "nowhere/classes.txt does not exist"),
        (["--config-file", "nothing.yaml"], r"there is no file 'nothing\.yaml'"),
        (["--dataset", "cityscapes_sem_seg_val", "--dataset", "ade20k_150_sem_seg_val"], "have different classes"),
    ],
)
def test_wrong_options_end_in_a_sentence(miniature, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert re.search(message, line), line


@pytest.mark.parametrize("name", ["0000.png", "new.png"])
def test_a_picture_does_not_become_a_file_of_the_dataset(shapes, tmp_path, capsys, name):
    shutil.copytree(shapes, tmp_path, dirs_exist_ok=True)
    labels = tmp_path / "labels" / "train"
    before = {file: file.read_bytes() for file in labels.iterdir()}
    with pytest.raises(SystemExit, match="2"):
        check(tmp_path, "--picture", labels / name)
    assert f"--picture: {labels} holds files of the dataset" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in labels.iterdir()} == before


def test_a_class_file_with_duplicates_is_one_line(shapes, tmp_path, capsys):
    classes = tmp_path / "classes.txt"
    classes.write_text("table\ntable\n")
    with pytest.raises(SystemExit) as stop:
        check(shapes, "DATASETS.FOLDER.CLASSES", classes)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "classes.txt, line 2: 'table' is also line 1" in line
