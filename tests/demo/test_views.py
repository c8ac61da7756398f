import io
import json
import re
from base64 import b64decode
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mtaclip.demo.views import Viewer, read_picture
from mtaclip.engine import setup_cfg
from mtaclip.modeling.build import build_model
from mtaclip.predictor import Predictor
from mtaclip.visualization.context_maps import draw_context_maps


@pytest.fixture(scope="module")
def make_viewer(config_path, tmp_path_factory):
    """A function that makes the viewer of a tiny random model."""

    def make(model: str = "mtaclip_tiny", *opts: str) -> Viewer:
        weights = tmp_path_factory.mktemp("weights") / "tiny.pth"
        config = config_path(f"miniature/{model}.yaml")
        torch.manual_seed(0)
        torch.save({"model": build_model(setup_cfg(config, device="cpu")).state_dict()}, weights)
        return Viewer(Predictor(setup_cfg(config, ["MODEL.WEIGHTS", str(weights), *opts], device="cpu")))

    return make


@pytest.fixture(scope="module")
def viewer(make_viewer):
    return make_viewer()


@pytest.fixture(scope="module")
def look(viewer):
    return viewer.look(np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_every_view_is_a_file_and_markup(viewer, look):
    assert viewer.views == ("overlay", "segments", "heat map", "prompts", "confidence") and viewer.limitation is None
    views = {name: look.view(name) for name in viewer.views}
    assert {name: view.suffix for name, view in views.items()} == {
        "overlay": ".png",
        "segments": ".svg",
        "heat map": ".svg",
        "prompts": ".png",
        "confidence": ".png",
    }
    assert pixels(views["overlay"].data).shape == (48 * 11, 96 * 11, 3)  # short edge of at least 512
    assert pixels(views["confidence"].data).shape == (48, 96, 3)
    for name in ("segments", "heat map"):
        assert views[name].data.startswith(b"<svg") and "<svg" in views[name].markup
    assert views["segments"].markup.count('class="segment"') == len(look.alignment.segments())


def test_prompts_are_shown_of_the_largest_classes_or_of_those_that_are_named(look):
    view = look.view("prompts")
    seen, counts = np.unique(look.alignment.labels, return_counts=True)
    largest = seen[np.argsort(-counts, kind="stable")][:3].tolist()
    assert np.array_equal(pixels(view.data), draw_context_maps(look.alignment, largest))
    assert f"Where the prompts fire: {look.palette.names[largest[0]]}" in view.markup
    assert "Words near the prompts" in view.markup
    assert np.array_equal(pixels(look.view("prompts", [4, 2]).data), draw_context_maps(look.alignment, [4, 2]))


def test_labels_and_numbers_add_up_to_the_image(viewer, look):
    assert np.array_equal(pixels(look.label_file()), look.labels)
    numbers = json.loads(look.numbers_file())
    assert (numbers["width"], numbers["height"]) == (96, 48)
    counted = {row["train_id"]: row["pixels"] for row in numbers["classes"]}
    assert counted == {label: int((look.labels == label).sum()) for label in np.unique(look.labels).tolist()}
    assert all(row["class"] == viewer.palette.names[row["train_id"]] for row in numbers["classes"])
    seen = numbers["segments_width"] * numbers["segments_height"]
    assert seen == look.alignment.labels.size and sum(row["pixels"] for row in numbers["segments"]) == seen
    first, segment = numbers["segments"][0], look.alignment.segments()[0]
    assert first["cosine"] == pytest.approx(segment.similarity, abs=1e-4)
    assert first["prompt"] == segment.context + 1 and first["text"] == look.alignment.texts[segment.text]
    assert set(first) == {"class", "pixels", "score", "text", "prompt", "cosine", "query"}


def test_other_classes_than_the_highlighted_show_the_image_or_nothing(viewer, look):
    present = int(look.labels[0, 0])
    absent = next(label for label in range(19) if label not in look.labels)
    assert not pixels(look.view("confidence", [absent]).data).any()
    shown = pixels(look.view("confidence", [present]).data).any(axis=2)
    assert np.array_equal(shown, look.labels == present)
    enlarged = np.asarray(Image.fromarray(look.image).resize((96 * 11, 48 * 11), Image.Resampling.BICUBIC))
    assert np.abs(pixels(look.view("overlay", [absent]).data).astype(int) - enlarged).mean() < 2
    assert viewer.palette.names[present] in look.view("overlay", [present]).markup
    assert "<li>" not in look.view("overlay", [absent]).markup


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_the_overlay_has_the_exact_colours_in_the_file_and_on_the_page(look, channel):
    image = np.zeros((600, 600, 3), np.uint8)  # is not enlarged
    image[..., channel] = 255
    labels = np.full((600, 600), 10, np.uint8)  # sky, (70, 130, 180)
    labels[:, 300:] = 16  # train, (0, 80, 100)
    view = replace(look, image=image, labels=labels).view("overlay", None)
    served = b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', view.markup)[1])
    assert served == view.data
    sky, train = [35, 65, 90], [0, 40, 50]  # the half of the colours, and of 255 in one channel
    sky[channel] = (162, 192, 218)[channel]  # 162.5 and 217.5 to even
    train[channel] = (128, 168, 178)[channel]  # 127.5, 167.5 and 177.5 to even
    assert [pixels(served)[20, column].tolist() for column in (20, 580)] == [sky, train]


def test_segments_that_are_not_highlighted_are_grey(look):
    colours = {name: look.view("segments", names).markup for name, names in (("all", None), ("none", []))}
    count = len(look.alignment.segments())
    assert colours["none"].count('fill="rgb(168,168,168)"') == count
    assert colours["all"].count('fill="rgb(168,168,168)"') == 0


@pytest.mark.parametrize(
    ("model", "opts", "reason"),
    [
        ("mask2former_tiny", (), "no text side"),
        ("mtaclip_tiny", ("TEST.SLIDING_WINDOW.ENABLED", "True"), "TEST.SLIDING_WINDOW.ENABLED"),
    ],
)
def test_a_model_that_cannot_be_explained_has_the_views_that_need_none(make_viewer, model, opts, reason):
    viewer = make_viewer(model, *opts)
    assert viewer.views == ("overlay", "confidence") and reason in viewer.limitation
    look = viewer.look(np.zeros((32, 64, 3), np.uint8))
    assert look.view("overlay").suffix == ".png"
    assert set(json.loads(look.numbers_file())) == {"width", "height", "classes"}


def test_a_model_without_a_test_dataset_is_refused(make_viewer):
    with pytest.raises(ValueError, match="DATASETS.TEST is empty"):
        make_viewer("mtaclip_tiny", "DATASETS.TEST", "()")


@pytest.mark.parametrize(
    ("size", "expected"), [((2048, 8), (2048, 8)), ((4096, 1000), (2048, 500)), ((3, 9000), (1, 2048))]
)
def test_large_images_are_scaled_down_with_a_notice(tmp_path, size, expected):
    Image.new("RGB", size).save(tmp_path / "large.png")
    picture, notice = read_picture(tmp_path / "large.png")
    assert picture.shape == (expected[1], expected[0], 3)
    if size == expected:
        assert notice is None
    else:
        assert f"from {size[0]} x {size[1]} to {expected[0]} x {expected[1]} pixels" in notice


def test_what_is_no_image_is_named_without_its_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"^image notes\.txt cannot be read") as raised:
        read_picture(tmp_path / "notes.txt")
    assert str(tmp_path) not in str(raised.value)


def test_class_names_are_separated_by_commas(viewer):
    assert viewer.palette.find(" Road , traffic light,") == (0, 6)
    assert viewer.palette.find(" , ") is None
    with pytest.raises(ValueError, match="no class 'raod'; close are: road"):
        viewer.palette.find("car, raod")
