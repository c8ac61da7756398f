import shutil

import numpy as np
import pytest
from PIL import Image

from projects.MTACLIP.alignment import main

IMAGE_FILES = {f"street{end}" for end in ("_segments.svg", "_heatmap.svg", "_contexts.png", "_alignment.html")}


@pytest.fixture
def command(tmp_path, config_path, tiny_checkpoint):
    """A function that makes arguments for a tiny random model, with --output out."""

    def make(*arguments: object, method: str = "mtaclip", opts: tuple[str, ...] = ()) -> list[str]:
        config = config_path(f"miniature/{method}_tiny.yaml")
        given = ["--config-file", config, "--output", tmp_path / "out", *arguments]
        return [str(word) for word in [*given, "--opts", "MODEL.WEIGHTS", tiny_checkpoint(method), *opts]]

    return make


@pytest.fixture
def street(tmp_path):
    """An image file."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def files(tmp_path) -> set[str]:
    return {file.name for file in (tmp_path / "out").iterdir()}


def test_an_image_gets_all_its_views_and_a_page(command, street, tmp_path):
    assert main(command("--input", street)) == 0
    assert files(tmp_path) == IMAGE_FILES | {"words.md"}
    page = (tmp_path / "out" / "street_alignment.html").read_text()
    assert [head in page for head in ("Segments", "Masks and texts", "Words near the prompts")] == [True] * 3
    assert (tmp_path / "out" / "words.md").read_text().count("\n") == 2 * 4 + 1  # contexts x vectors, heads and rule
    assert Image.open(tmp_path / "out" / "street_contexts.png").width == 2 * 400 + 12 + 2 * 16


def test_folders_are_read_and_images_of_one_name_keep_apart(command, street, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        shutil.copy(street, tmp_path / "photos" / name)
    assert main(command("--input", tmp_path / "photos", "--view", "heatmap")) == 0
    assert files(tmp_path) == {f"{name}_street_{end}" for name in "ab" for end in ("heatmap.svg", "alignment.html")}


def test_one_view_of_one_class(command, street, tmp_path):
    assert main(command("--input", street, "--view", "contexts", "--classes", "car", "traffic light")) == 0
    assert files(tmp_path) == {"street_contexts.png", "street_alignment.html"}
    page = (tmp_path / "out" / "street_alignment.html").read_text()
    assert "Where the prompts fire: car, traffic light" in page and "Words near" not in page


def test_a_dataset_gets_its_projection(command, miniature, tmp_path):
    assert main(command("--dataset", "cityscapes_sem_seg_val", "--limit", "2")) == 0
    assert files(tmp_path) == {"projection.svg", "separation.md", "words.md"}
    assert "of 2 images" in (tmp_path / "out" / "projection.svg").read_text()
    assert (tmp_path / "out" / "separation.md").read_text().startswith("| class")


def test_words_need_no_image(command, tmp_path):
    assert main(command("--view", "words")) == 0
    assert files(tmp_path) == {"words.md"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "STREET", "--view", "projection"], ["--view projection", "--dataset"]),
        (["--view", "heatmap"], ["--view heatmap", "--input or --dataset"]),
        (["--input", "STREET", "--classes", "tree"], ["--classes: 'tree'", "vegetation"]),
        (["--input", "missing.png"], ["missing.png"]),
        (["--dataset", "cityscapes_sem_seg_test"], ["no labels"]),
        (["--dataset", "ade20k_150_sem_seg_val"], ["150 classes", "19"]),
        (["--dataset", "city"], ["'city' is not registered"]),
        (["--dataset", "cityscapes_sem_seg_val", "--limit", "0"], ["--limit", "0"]),
        (["--input", "STREET", "--limit", "1"], ["--limit", "name one by --dataset"]),
    ],
)
def test_what_is_wrong_is_one_sentence(command, street, miniature, capsys, arguments, words):
    arguments = [str(street) if word == "STREET" else word for word in arguments]
    ended_with(command(*arguments), capsys, [word.replace("STREET", str(street)) for word in words])


def test_the_baseline_has_no_alignment(command, street, capsys):
    ended_with(command("--input", street, method="mask2former"), capsys, ["no text side", "TEXT.ENABLED is False"])


def test_windows_are_refused(command, street, capsys):
    opts = ("TEST.SLIDING_WINDOW.ENABLED", "True")
    ended_with(command("--input", street, opts=opts), capsys, ["set TEST.SLIDING_WINDOW.ENABLED False"])


@pytest.mark.usefixtures("bounded_memory")
def test_too_little_memory_is_one_sentence(command, street, capsys):
    opts = ("INPUT.MIN_SIZE_TEST", "1000000", "INPUT.MAX_SIZE_TEST", "1000000000")  # 4.5 TB
    ended_with(command("--input", street, opts=opts), capsys, ["the memory does not suffice", "INPUT.MIN_SIZE_TEST"])


def ended_with(arguments: list[str], capsys, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "error: " in last and all(word in last for word in words), last
