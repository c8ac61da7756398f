"""Images and label maps of all kinds, whole and damaged: pixels, or one sentence on the file."""

import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mtaclip.data.image_files import ImageFile, UnusableFileError, read_image, read_instance_map
from mtaclip.data.labels import read_label_map
from tests.inputs.files import IMAGE_FORMATS, IMAGE_MODES, image
from tests.inputs.mutations import damaged

NAMES = st.sampled_from(("image.png", "image.jpg", "image.tif", "image", "image.txt"))
SIZES = st.sampled_from(((1, 1), (1, 9), (9, 1), (7, 5), (64, 48)))


IMAGES = st.builds(
    image,
    st.sampled_from(IMAGE_FORMATS),
    st.sampled_from(IMAGE_MODES),
    SIZES,
    st.integers(0, 9),
    st.sampled_from((1, 2)),
).filter(lambda content: content is not None)


@example(content=b"DDS " + bytes(200), name="image.png")
@example(content=b"DDS |" + bytes(200), name="image.png")
@given(content=damaged(IMAGES), name=NAMES)
def test_an_image_is_pixels_or_a_sentence(write, cases, content, name):
    path = write(content, name)
    try:
        with cases:
            file = ImageFile(path)
            top = file.top(1)
            pixels = file.top(file.height)
    except UnusableFileError as error:
        assert error.path == str(path) and str(error).startswith("image ") and "\n" not in str(error)
        with pytest.raises(UnusableFileError):
            read_image(path)
        return
    assert pixels.shape == (file.height, file.width, 3) and pixels.dtype == np.uint8 and pixels.size
    np.testing.assert_array_equal(top, pixels[:1])
    np.testing.assert_array_equal(read_image(path), pixels)


@given(content=damaged(IMAGES), name=NAMES, label_format=st.sampled_from(("train_ids", "ade20k")))
def test_a_label_map_is_train_ids_or_a_sentence(write, cases, content, name, label_format):
    path = write(content, name)
    for read, dtype in (
        (lambda: read_label_map(path, label_format), np.uint8),
        (lambda: read_instance_map(path), np.uint16),
    ):
        try:
            with cases:
                labels = read()
        except UnusableFileError as error:
            assert error.path == str(path) and "\n" not in str(error)
        else:
            assert labels.ndim == 2 and labels.dtype == dtype and labels.size


def png(width: int, height: int, bits: int, colour_type: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with checksums that are right, whatever it says of itself."""
    header = struct.pack(">2I5B", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


BOMB = zlib.compress(bytes(50_000_000), 9)
BOMBS = {
    "20000 x 20000": png(20_000, 20_000, 8, 2, zlib.compress(b"")),
    "label map of 20000 x 20000": png(20_000, 20_000, 8, 0, zlib.compress(b"")),
    "2^31 - 1 wide": png(2**31 - 1, 1, 8, 2, zlib.compress(b"")),
    "more data than pixels": png(4, 4, 8, 2, BOMB),
    "text": png(4, 4, 8, 2, zlib.compress(bytes(4 * 13)), (b"zTXt", b"Raw profile type exif\0\0" + BOMB)),
    "profile": png(4, 4, 8, 2, zlib.compress(bytes(4 * 13)), (b"iCCP", b"icc\0\0" + BOMB)),
}
CHILD = """
import resource, sys
from mtaclip.data.image_files import read_image
from mtaclip.data.labels import read_label_map
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for path in sys.argv[1:]:
    for read in (read_image, read_label_map):
        try:
            read(path)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
print(peak() - before)
"""


def test_small_files_do_not_take_much_memory(tmp_path):
    files = []
    for number, content in enumerate(BOMBS.values()):
        assert len(content) < 100_000
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(content)
    limit = 8 * 2**30  # what the libraries reserve counts, too
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *files],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, hard)),
    )
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < 100_000  # kB
