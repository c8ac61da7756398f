"""Images and label maps are what Pillow decodes, to the bit; damaged files are an error, or what Pillow makes of it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from mtaclip.data.image_files import ImageFile, read_image
from mtaclip.data.labels import read_label_map

HEIGHT, WIDTH = 37, 53
SIGNATURE = b"\x89PNG\r\n\x1a\n"
READERS = {3: read_image, 1: read_label_map}  # by the number of channels


@pytest.fixture
def pixels():
    """Smooth in one half and noise in the other; no value is one that label maps must not hold."""
    rng = np.random.default_rng(0)
    image = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))[..., None] * (1, 2, 3) % 254
    image[HEIGHT // 2 :] = rng.integers(0, 254, (HEIGHT - HEIGHT // 2, WIDTH, 3))
    return image.astype(np.uint8)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def header(height, width, channels):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, channels - 1, 0, 0, 0))


def write(pixels, parts=1, level=-1, after=b""):
    """A PNG whose rows use the five filters of the format in turn, in `parts` chunks, by the format's definition."""
    height, width, channels = pixels.shape
    rows, above = [], np.zeros(channels * width, int)
    for number, row in enumerate(pixels.reshape(height, -1).astype(int)):
        left, corner = (np.concatenate([np.zeros(channels, int), line[:-channels]]) for line in (row, above))
        distances = np.abs([above - corner, left - corner, left + above - 2 * corner])  # of a + b - c to a, b, c
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])  # the first of equal ones wins
        guess = [0, left, above, (left + above) // 2, paeth][number % 5]
        rows.append(bytes([number % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes())
        above = row
    stream = zlib.compress(b"".join(rows), level)
    size = -(-len(stream) // parts)
    data = [chunk(b"IDAT", stream[i : i + size]) for i in range(0, len(stream), size)]
    return SIGNATURE + header(height, width, channels) + b"".join(data) + after + chunk(b"IEND", b"")


def by_pillow(data, channels):
    """Pixels as Pillow decodes a file, or None if it refuses it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB") if channels == 3 else image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def same_as_pillow(data, channels, path):
    """Check one file: the same pixels, or an error with the file's name where Pillow has one; return the pixels."""
    path.write_bytes(data)
    expected = by_pillow(data, channels)
    if expected is None:
        with pytest.raises(ValueError, match=f"{path.name} (cannot be read|has more|must hold)"):
            READERS[channels](path)
    else:
        assert np.array_equal(READERS[channels](path), expected)
    return expected


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (1, 1), (HEIGHT, 1), (1, WIDTH)])
def test_every_filter_is_undone(pixels, parts, channels, size, tmp_path):
    part = np.ascontiguousarray(pixels[: size[0], : size[1], :channels])
    (tmp_path / "a.png").write_bytes(write(part, parts))
    found = READERS[channels](tmp_path / "a.png")
    assert found.dtype == np.uint8 and found.flags.writeable
    assert np.array_equal(found.reshape(part.shape), part)


@pytest.mark.parametrize("level", [6, 0], ids=["compressed", "stored"])
@pytest.mark.parametrize("parts", [1, 7])
def test_the_first_rows_are_those_of_the_whole(pixels, parts, level, tmp_path):
    (tmp_path / "a.png").write_bytes(write(pixels, parts, level))
    file = ImageFile(tmp_path / "a.png")
    assert (file.height, file.width) == (HEIGHT, WIDTH)
    for rows in range(1, HEIGHT + 1):
        assert np.array_equal(file.top(rows), pixels[:rows])


def test_rows_that_are_not_needed_are_not_decoded(pixels, tmp_path):
    """The stream lacks the last rows under right checksums: a sign of what is read, and an error when it matters."""
    rows = b"".join(b"\0" + row.tobytes() for row in pixels[:20])
    data = SIGNATURE + header(HEIGHT, WIDTH, 3) + chunk(b"IDAT", zlib.compress(rows)[:-10]) + chunk(b"IEND", b"")
    (tmp_path / "short.png").write_bytes(data)
    file = ImageFile(tmp_path / "short.png")
    assert np.array_equal(file.top(15), pixels[:15])
    with pytest.raises(ValueError, match=r"short\.png cannot be read"):
        file.top(30)


def test_first_rows_of_what_is_decoded_whole(pixels, tmp_path):
    """Of another format, and of an image that is turned: rows of the image as it is shown."""
    Image.fromarray(pixels).save(tmp_path / "a.tiff")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    for name, shown in (("a.tiff", pixels), ("turned.png", np.rot90(pixels, -1))):
        file = ImageFile(tmp_path / name)
        assert (file.height, file.width) == shown.shape[:2]
        assert np.array_equal(file.top(5), shown[:5])


@pytest.mark.parametrize(
    ("image_format", "modes"),
    [
        ("PNG", ["RGB", "L", "RGBA", "LA", "P", "1"]),
        ("JPEG", ["RGB", "L", "CMYK"]),
        ("TIFF", ["RGB", "L", "RGBA", "P", "CMYK"]),
    ],
)
def test_every_format_and_mode_is_what_pillow_decodes(pixels, tmp_path, image_format, modes):
    for mode in modes:
        Image.fromarray(pixels).convert(mode).save(tmp_path / mode, format=image_format)
        assert same_as_pillow((tmp_path / mode).read_bytes(), 3, tmp_path / "copy") is not None


@pytest.mark.parametrize("options", [{"bits": 4}, {"transparency": 7}, {"optimize": True}])
def test_palettes_and_shallow_greys_are_indices_and_levels(tmp_path, options):
    indices = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(2, 8))
    indices.putpalette(range(48))
    indices.save(tmp_path / "a.png", **options)
    assert read_label_map(tmp_path / "a.png").tolist() == np.arange(16).reshape(2, 8).tolist()


def test_a_transparent_colour_changes_nothing(pixels, tmp_path):
    for channels, colour in ((3, tuple(pixels[0, 0].tolist())), (1, int(pixels[0, 0, 0]))):
        Image.fromarray(pixels[..., :channels].squeeze()).save(tmp_path / "a.png", transparency=colour)
        found = READERS[channels](tmp_path / "a.png")
        assert np.array_equal(found, pixels[..., :channels].squeeze())


def test_images_are_turned_as_their_metadata_say_wherever_it_is(pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = PngInfo()
    profile.add_text("Raw profile type exif", f"\nexif\n{len(exif.tobytes()):8}\n{exif.tobytes().hex()}\n")
    turned = PngInfo()
    turned.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta><rdf tiff:Orientation="6"/></x:xmpmeta>')
    for name, options in (("exif", {"exif": exif}), ("profile", {"pnginfo": profile}), ("xmp", {"pnginfo": turned})):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", **options)
        assert np.array_equal(read_image(tmp_path / f"{name}.png"), np.rot90(pixels, -1)), name
    (tmp_path / "last.png").write_bytes(write(pixels, after=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))))
    assert np.array_equal(read_image(tmp_path / "last.png"), np.rot90(pixels, -1))


def test_the_first_picture_of_an_animation_is_the_image(pixels, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(255 - pixels)])
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("level", [6, 0], ids=["compressed", "stored"])
@pytest.mark.parametrize("channels", [3, 1])
def test_a_changed_byte_is_an_error_or_as_in_pillow(pixels, channels, level, tmp_path):
    # In a stored stream a byte is a pixel, and nothing but a checksum notices that it was another one.
    data = write(pixels[:10, :13, :channels], 3, level)
    rng = np.random.default_rng(0)
    refused = 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 + int(rng.integers(255))
        refused += same_as_pillow(bytes(damaged), channels, tmp_path / "changed.png") is None
    assert refused > len(data) // 4


@pytest.mark.parametrize("channels", [3, 1])
def test_a_file_cut_anywhere_is_an_error_or_as_in_pillow(pixels, channels, tmp_path):
    data = write(pixels[:10, :13, :channels], 3)
    refused = sum(same_as_pillow(data[:end], channels, tmp_path / "cut.png") is None for end in range(1, len(data)))
    assert refused > len(data) // 2


@pytest.mark.parametrize("channels", [3, 1])
def test_a_stream_that_is_too_short_is_an_error_in_spite_of_right_checksums(pixels, channels, tmp_path):
    rows = b"".join(b"\0" + row.tobytes() for row in pixels[:20, :, :channels])
    data = SIGNATURE + header(HEIGHT, WIDTH, channels) + chunk(b"IDAT", zlib.compress(rows)[:-10]) + chunk(b"IEND", b"")
    assert same_as_pillow(data, channels, tmp_path / "short.png") is None


def test_an_error_of_the_file_system_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="^image .* cannot be read"):
        ImageFile(tmp_path / ("x" * 300))


def test_an_image_of_absurd_size_is_refused_before_its_memory_is_asked_for(tmp_path):
    data = SIGNATURE + header(2**30, 2**30, 3) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    (tmp_path / "huge.png").write_bytes(data)
    with pytest.raises(ValueError, match="huge.png cannot be read"):
        read_image(tmp_path / "huge.png")
