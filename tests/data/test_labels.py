"""Label maps become train ids exactly, and files that cannot be right say so by name."""

import struct
import zlib

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from mtaclip.data.image_files import read_image
from mtaclip.data.labels import LABEL_FORMATS, label_table, read_label_map


def save(path, rows):
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(path)
    return path


def test_cityscapes_label_ids(tmp_path):
    # 7 road -> 0, 8 sidewalk -> 1, 26 car -> 13, 33 bicycle -> 18; 0, 9 parking, 29 caravan and 255 are ignored
    file = save(tmp_path / "a_labelIds.png", [[7, 8, 26, 33], [0, 9, 29, 255]])
    labels = read_label_map(file, "cityscapes_label_ids")
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[0, 1, 13, 18], [255, 255, 255, 255]]


def test_cityscapes_table_is_the_official_one():
    table = label_table("cityscapes_label_ids")
    for label in official_labels:
        assert table[label.id % 256] == (255 if label.ignoreInEval else label.trainId), label.name
    assert (table[34:255] == -1).all()


def test_ade20k_shifts_by_one(tmp_path):
    file = save(tmp_path / "a.png", [[0, 1, 2, 150]])
    assert read_label_map(file, "ade20k").tolist() == [[255, 0, 1, 149]]


def test_train_ids_pass_and_255_is_ignored(tmp_path):
    file = save(tmp_path / "a.png", [[0, 4, 255]])
    assert read_label_map(file, "train_ids", 5).tolist() == [[0, 4, 255]]


def test_palette_indices_are_labels(tmp_path):
    image = Image.new("P", (3, 1))
    image.putdata([0, 2, 1])
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    image.save(tmp_path / "p.png")
    assert read_label_map(tmp_path / "p.png", "train_ids", 3).tolist() == [[0, 2, 1]]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize(
    ("bits", "packed", "values"),
    [
        (1, 0b01100000, [0, 1, 1, 0]),
        (2, 0b00011011, [0, 1, 2, 3]),
        (4, 0x3F, [3, 15]),
        (8, 7, [7]),
    ],
)
def test_grey_pngs_of_few_bits_hold_the_stored_values(tmp_path, bits, packed, values):
    header = struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes([0, packed]))), chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert read_label_map(tmp_path / "a.png").tolist() == [values]


def test_an_image_of_one_bit_holds_0_and_1(tmp_path):
    image = Image.fromarray(np.uint8([[0, 255, 0]])).convert("1")
    for name in ("a.png", "a.bmp", "a.tif"):
        image.save(tmp_path / name)
        assert read_label_map(tmp_path / name).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_colours_hold_their_indices(tmp_path, bits):
    values = list(range(2**bits))
    image = Image.new("P", (len(values), 1))
    image.putdata(values)
    image.putpalette([9 * value for value in values for _ in "rgb"])
    image.save(tmp_path / "p.png", bits=bits)
    assert (tmp_path / "p.png").read_bytes()[24] == bits
    assert read_label_map(tmp_path / "p.png").tolist() == [values]


@pytest.mark.parametrize(
    ("label_format", "num_classes", "row", "illegal", "allowed"),
    [
        ("cityscapes_label_ids", None, [7, 34, 200], "34, 200", "0..33, 255"),
        ("ade20k", None, [150, 151, 255], "151, 255", "0..150"),
        ("train_ids", 3, [0, 2, 3, 254, 255], "3, 254", "0..2, 255"),
    ],
)
def test_illegal_values_name_file_values_and_range(tmp_path, label_format, num_classes, row, illegal, allowed):
    file = save(tmp_path / "wrong.png", [row])
    with pytest.raises(ValueError) as error:
        read_label_map(file, label_format, num_classes)
    for part in (str(file), f"value(s) {illegal},", label_format, f"allowed: {allowed}"):
        assert part in str(error.value)


def test_colour_and_16_bit_label_maps_are_refused(tmp_path):
    save(tmp_path / "colour.png", np.zeros((2, 2, 3)))
    Image.fromarray(np.array([[7, 26001]], dtype=np.uint16)).save(tmp_path / "instances.png")
    for name in ("colour.png", "instances.png"):
        with pytest.raises(ValueError, match=f"{name} must hold one 8-bit class id per pixel"):
            read_label_map(tmp_path / name, "train_ids")


def test_unknown_format_and_impossible_class_counts(tmp_path):
    file = save(tmp_path / "a.png", [[0]])
    with pytest.raises(ValueError, match="unknown label format 'coco'.*cityscapes_label_ids, train_ids, ade20k"):
        read_label_map(file, "coco")
    with pytest.raises(ValueError, match="has 19 classes, not 3"):
        read_label_map(file, "cityscapes_label_ids", 3)
    with pytest.raises(ValueError, match="1 to 254 classes, not 255"):
        read_label_map(file, "train_ids", 255)
    assert LABEL_FORMATS == ("cityscapes_label_ids", "train_ids", "ade20k")


@pytest.mark.parametrize("read", [read_image, read_label_map])
def test_missing_and_damaged_files_are_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="nowhere.png does not exist"):
        read(tmp_path / "nowhere.png")
    (tmp_path / "text.png").write_text("no image at all")
    with pytest.raises(ValueError, match="text.png cannot be read"):
        read(tmp_path / "text.png")
    whole = save(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 200, (64, 64)))
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(ValueError, match="cut.png cannot be read"):
        read(tmp_path / "cut.png")


def test_a_truncated_photograph_is_not_filled_with_grey(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    with pytest.raises(ValueError, match="cut.jpg cannot be read"):
        read_image(tmp_path / "cut.jpg")


def test_a_red_image_is_red_first(tmp_path):
    save(tmp_path / "red.png", [[[255, 0, 0]]])
    image = read_image(tmp_path / "red.png")
    assert image.dtype == np.uint8
    assert image.tolist() == [[[255, 0, 0]]]


def test_grey_palette_and_alpha_become_rgb(tmp_path):
    save(tmp_path / "grey.png", [[7, 200]])
    assert read_image(tmp_path / "grey.png").tolist() == [[[7, 7, 7], [200, 200, 200]]]
    save(tmp_path / "alpha.png", [[[1, 2, 3, 0]]])
    assert read_image(tmp_path / "alpha.png").tolist() == [[[1, 2, 3]]]
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").tolist() == [[[10, 20, 30]]]


def test_exif_orientation_is_applied(tmp_path):
    # Orientation 6: turn clockwise to see it upright. A row "red, blue" becomes a column with red on top.
    image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert read_image(tmp_path / "turned.png").tolist() == [[[255, 0, 0]], [[0, 0, 255]]]


def test_16_bit_images_are_refused(tmp_path):
    Image.fromarray(np.array([[1, 60000]], dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="deep.png has more than 8 bits per channel"):
        read_image(tmp_path / "deep.png")
