"""Corners of PNGs are what Pillow decodes, and what is unusual or damaged is left to Pillow."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mtaclip.data.labels import ImageFile, read_image
from mtaclip.data.png import PlainPng

HEIGHT, WIDTH = 37, 53


@pytest.fixture
def pixels():
    """Smooth in one half and noise in the other, so that a writer chooses different filters for different rows."""
    rng = np.random.default_rng(0)
    image = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] * (1, 2, 3) % 256
    image[HEIGHT // 2 :] = rng.integers(0, 256, (HEIGHT - HEIGHT // 2, WIDTH, 3))
    return image.astype(np.uint8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write(pixels, parts=1, after=b""):
    """A PNG whose rows use the five filters of the format in turn, in `parts` chunks, by the format's definition."""
    height, width = pixels.shape[:2]
    rows, above = [], np.zeros(3 * width, int)
    for number, row in enumerate(pixels.reshape(height, -1).astype(int)):
        left, corner = (np.concatenate([np.zeros(3, int), line[:-3]]) for line in (row, above))
        distances = np.abs([above - corner, left - corner, left + above - 2 * corner])  # of a + b - c to a, b, c
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])  # the first of equal ones wins
        guess = [0, left, above, (left + above) // 2, paeth][number % 5]
        rows.append(bytes([number % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes())
        above = row
    stream = zlib.compress(b"".join(rows))
    size = -(-len(stream) // parts)
    data = [chunk(b"IDAT", stream[i : i + size]) for i in range(0, len(stream), size)]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(data) + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (1, 1), (HEIGHT, 5), (4, WIDTH), (20, 31)])
def test_a_corner_is_the_corner_of_the_whole(pixels, parts, size):
    data = write(pixels, parts)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    png = PlainPng.parse(data)
    assert (png.height, png.width) == (HEIGHT, WIDTH)
    assert np.array_equal(png.corner(*size), pixels[: size[0], : size[1]])


def test_files_of_pillow_are_read_to_the_bit(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert PlainPng.parse((tmp_path / "a.png").read_bytes()) is not None
    file = ImageFile(tmp_path / "a.png")
    assert (file.height, file.width) == (HEIGHT, WIDTH)
    assert np.array_equal(file.corner(9, 12), pixels[:9, :12])
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("options", [{}, {"format": "JPEG"}, {"format": "TIFF"}, {"format": "PNG", "mode": "RGBA"}])
def test_every_format_has_corners(pixels, tmp_path, options):
    image = Image.fromarray(pixels).convert(options.pop("mode", "RGB"))
    image.save(tmp_path / "a", **{"format": "PNG", **options})
    whole = np.asarray(Image.open(tmp_path / "a").convert("RGB"))
    file = ImageFile(tmp_path / "a")
    assert (file.height, file.width) == (HEIGHT, WIDTH)
    assert np.array_equal(file.corner(9, 12), whole[:9, :12])
    assert np.array_equal(file.corner(HEIGHT, WIDTH), whole)


def test_what_may_be_turned_is_left_to_pillow(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = PngInfo()
    turned.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf tiff:Orientation="6"/></x:xmpmeta>')
    for name, options in (("exif.png", {"exif": exif}), ("xmp.png", {"pnginfo": turned})):
        Image.fromarray(pixels).save(tmp_path / name, **options)
        assert PlainPng.parse((tmp_path / name).read_bytes()) is None
        assert np.array_equal(read_image(tmp_path / name), np.rot90(pixels, -1))


def test_harmless_texts_are_no_reason(pixels, tmp_path):
    note = PngInfo()
    note.add_text("date:create", "2016-02-17")
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=note)
    assert PlainPng.parse((tmp_path / "a.png").read_bytes()) is not None


def test_every_damage_is_noticed(pixels):
    data = write(pixels, 3)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(data), 200):
        damaged = bytearray(data)
        damaged[place] ^= 1 + int(rng.integers(255))
        assert PlainPng.parse(bytes(damaged)) is None, place
    for end in range(len(data)):
        assert PlainPng.parse(data[:end]) is None


def test_a_stream_that_is_too_short_has_fewer_rows_and_an_error_with_the_name(pixels, tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
    start = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels[:20]))[:-10]
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", start) + chunk(b"IEND", b"")
    assert np.array_equal(PlainPng.parse(data).corner(5, WIDTH), pixels[:5])
    assert PlainPng.parse(data).corner(HEIGHT, WIDTH) is None
    (tmp_path / "short.png").write_bytes(data)
    with pytest.raises(ValueError, match="short.png cannot be read"):
        read_image(tmp_path / "short.png")
