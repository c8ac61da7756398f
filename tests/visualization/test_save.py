import numpy as np
from PIL import Image

from mtaclip.visualization import Palette, save_prediction

PALETTE = Palette(("red", "blue"), np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8))


def test_four_files_with_exact_ids_and_colours(tmp_path):
    labels = np.zeros((40, 60), dtype=np.uint8)
    labels[:, 20:] = 1
    labels[:, 50:] = 255
    image = np.full((40, 60, 3), (0, 255, 0), dtype=np.uint8)
    files = save_prediction(tmp_path / "new", "photo", image, labels, PALETTE, opacity=1.0)
    assert [file.name for file in files] == [f"photo_{kind}.png" for kind in ("overlay", "colour", "ids", "legend")]
    overlay, colour, ids, legend = (Image.open(file) for file in files)
    assert ids.mode == "L"
    assert np.array_equal(np.array(ids), labels)
    assert colour.mode == overlay.mode == legend.mode == "RGB"
    assert [colour.getpixel((x, 0)) for x in (19, 20, 50)] == [(255, 0, 0), (0, 0, 255), (0, 0, 0)]
    assert overlay.size == (60 * 13, 40 * 13)  # 13 is the first whole number that gives the short edge 512 pixels
    assert overlay.getpixel((1, 1)) == (255, 0, 0)
    assert overlay.getpixel((55 * 13, 20 * 13)) == (0, 255, 0)  # ignored: the image shows
