import numpy as np
import pytest
from PIL import Image

from mtaclip.visualization import Painter, Palette, Segmented, save_prediction
from mtaclip.visualization.painter import KINDS

PALETTE = Palette(("red", "blue"), np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8))


@pytest.fixture
def segmented() -> Segmented:
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[:, 20:] = 1
    labels[:, 50:] = 255
    image = np.full((40, 60, 3), (0, 255, 0), dtype=np.uint8)
    return Segmented(image, labels, np.ones((40, 60), dtype=np.float32))


def test_four_files_with_exact_ids_and_colours(tmp_path, segmented):
    files = save_prediction(tmp_path / "new", "photo", segmented, Painter(PALETTE, opacity=1.0))
    assert [file.name for file in files] == [f"photo_{kind}.png" for kind in ("overlay", "colours", "ids", "legend")]
    overlay, colours, ids, legend = (Image.open(file) for file in files)
    assert ids.mode == "L"
    assert np.array_equal(np.array(ids), segmented.labels)
    assert colours.mode == overlay.mode == legend.mode == "RGB"
    assert [colours.getpixel((x, 0)) for x in (19, 20, 50)] == [(255, 0, 0), (0, 0, 255), (0, 0, 0)]
    assert overlay.size == (60 * 13, 40 * 13)  # 13 is the first whole number that gives the short edge 512 pixels
    assert overlay.getpixel((1, 1)) == (255, 0, 0)
    assert overlay.getpixel((55 * 13, 20 * 13)) == (0, 255, 0)  # ignored: the image shows


def test_only_what_is_asked_for_is_written(tmp_path, segmented):
    save_prediction(tmp_path, "a", segmented, Painter(PALETTE), ["ids"])
    assert [file.name for file in tmp_path.iterdir()] == ["a_ids.png"]
    files = save_prediction(tmp_path, "b", segmented, Painter(PALETTE), KINDS)
    assert [file.name for file in files] == [f"b_{kind}.png" for kind in KINDS]


def test_a_file_that_cannot_be_written_is_named(tmp_path, segmented):
    (tmp_path / "a_ids.png").mkdir()
    with pytest.raises(OSError, match=r"a_ids\.png cannot be written: "):
        save_prediction(tmp_path, "a", segmented, Painter(PALETTE), ["ids"])
