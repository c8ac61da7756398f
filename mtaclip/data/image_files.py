"""Reads image files of every kind: pixels as they are stored, or one sentence on the file.

Shapes: `H, W` the size of a file.
"""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pyspng
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import ChunkStream

from mtaclip.problems import first_line

# What Pillow raises on broken files, whatever their names; all but a lack of memory.
_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB = 0, 2  # colour types of PNGs
_BIT_DEPTH = 24  # where it stands in a PNG
# What may turn a PNG (EXIF and XMP, in all their disguises) or make several images of it.
_SPECIAL_CHUNKS = frozenset((b"eXIf", b"acTL"))
_TEXT_CHUNKS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_TURNING_TEXTS = (b"Raw profile type", b"XML:com.adobe.xmp")


class UnusableFileError(ValueError):
    """A file of a dataset is damaged, or not what it should be; `path` says which."""

    path: str


class MissingFileError(FileNotFoundError):
    """A file of a dataset does not exist; `path` says which."""

    path: str


class ImageFile:
    """An image as RGB, decoded no further down than it is needed; its `height` and `width` are known at once.

    This is the one place where the order of the channels is decided. The orientation stored in EXIF is applied; grey,
    palette and CMYK images are converted, an alpha channel is dropped.
    """

    def __init__(self, path: str | Path) -> None:
        """Open any file that Pillow reads.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not an image, is damaged, or has more than 8 bits per channel.
        """
        self._path, self._content = path, _read_bytes(path, "image")
        self._pixels: NDArray[np.uint8] | None = None
        with _open(self._content, path, "image") as file:
            if file.mode.startswith(("I", "F")):
                raise unusable(
                    path,
                    f"image {path} has more than 8 bits per channel (mode {file.mode}): convert it to 8 bits first.",
                )
            if _is_plain_png(self._content, _RGB):
                self.width, self.height = file.size
            else:
                self._pixels = self._decode_by_pillow(file)
                self.height, self.width = self._pixels.shape[:2]

    def top(self, rows: int) -> NDArray[np.uint8]:
        """Return the first rows, uint8 (rows, width, 3), channels red, green, blue.

        Of a plain RGB PNG only these are decoded, though the checksums of all its chunks have been compared.

        Raises:
            ValueError: the file is damaged.
        """
        if self._pixels is None:
            pixels = _decode_png(self._content, rows)
            if pixels is not None:
                return pixels
            with _open(self._content, self._path, "image") as file:
                self._pixels = self._decode_by_pillow(file)
        return self._pixels[:rows]

    def _decode_by_pillow(self, file: Image.Image) -> NDArray[np.uint8]:
        try:
            oriented = ImageOps.exif_transpose(file)
            return np.array((oriented if oriented.mode == "RGB" else oriented.convert("RGB")), dtype=np.uint8)
        except _UNREADABLE as error:
            raise _unreadable("image", self._path, error) from error


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read a whole image as RGB, as `ImageFile` does.

    Args:
        path: any file that Pillow reads.

    Returns:
        uint8 (H, W, 3), channels red, green, blue.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not an image, is damaged, or has more than 8 bits per channel.
    """
    file = ImageFile(path)
    return file.top(file.height)


def read_label_values(path: str | Path) -> NDArray[np.uint8]:
    """Read a label map as it is stored, whatever its values mean.

    Args:
        path: an image with one channel (grey or palette indices) of at most 8 bits.

    Returns:
        uint8 (H, W).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, more than 8 bits, or more than one channel.
    """
    content = _read_bytes(path, "label map")
    with _open(content, path, "label map") as file:
        if file.mode not in ("1", "L", "P"):
            raise unusable(
                path,
                f"label map {path} must hold one 8-bit class id per pixel (a grey or palette image), "
                f"but its mode is {file.mode}: is it a colour picture of the labels, or an instance map?",
            )
        raw = _decode_png(content) if _is_plain_png(content, _GREY) else None
        if raw is not None:
            return raw
        try:
            return np.asarray(file, dtype=np.uint8) // _stretch(content, file.mode)
        except _UNREADABLE as error:
            raise _unreadable("label map", path, error) from error


def _stretch(content: bytes, mode: str) -> int:
    """What Pillow multiplies the values of a file by: greys of 2 and 4 bits in a PNG become 0..255."""
    bits = content[_BIT_DEPTH] if mode == "L" and content.startswith(_PNG_SIGNATURE) else 8
    return 255 // (2**bits - 1)


def read_instance_map(path: str | Path) -> NDArray[np.uint16]:
    """Read an instance map of Cityscapes, `*_gtFine_instanceIds.png`.

    Args:
        path: a 16-bit image with one channel.

    Returns:
        uint16 (H, W): label id * 1000 + number for the pixels of a counted object, the label id elsewhere.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a 16-bit image with one channel, or is damaged.
    """
    content = _read_bytes(path, "instance map")
    with _open(content, path, "instance map") as file:
        if not file.mode.startswith("I"):
            raise unusable(
                path, f"instance map {path} must hold 16 bits in one channel per pixel, but its mode is {file.mode}."
            )
        try:
            return np.asarray(file).astype(np.uint16)
        except _UNREADABLE as error:
            raise _unreadable("instance map", path, error) from error


def unusable(path: str | Path, message: str) -> UnusableFileError:
    """The error that `path` cannot be used; `message` is the whole sentence."""
    error = UnusableFileError(message)
    error.path = str(path)
    return error


def _read_bytes(path: str | Path, what: str) -> bytes:
    try:
        if Path(path).is_file():
            return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(what, path, error) from error
    error = MissingFileError(f"{what} {path} does not exist.")
    error.path = str(path)
    raise error


def _open(content: bytes, path: str | Path, what: str) -> Image.Image:
    try:
        return Image.open(BytesIO(content))
    except Image.UnidentifiedImageError as error:
        raise _unreadable(what, path, "no known image format") from error
    except _UNREADABLE as error:
        raise _unreadable(what, path, error) from error


def _is_plain_png(content: bytes, colour_type: int) -> bool:
    """Whether `_decode_png` decodes this file to what Pillow makes of it: 8 bits of type `_RGB` or `_GREY`.

    False for other formats, other kinds of PNG, those that may have to be turned, and those whose checksums are wrong.
    """
    kind = bytes([8, colour_type, 0, 0, 0])  # bits per channel, colour type, compression, filters, not interlaced
    if not content.startswith(_PNG_SIGNATURE) or content[24:29] != kind:
        return False
    stream = BytesIO(content)
    stream.seek(len(_PNG_SIGNATURE))
    try:
        # pyspng ignores the checksums: without this, a flipped bit would be an image of other pixels.
        chunks = ChunkStream(stream).verify()
    except _UNREADABLE:
        return False
    if _TEXT_CHUNKS.intersection(chunks) and any(text in content for text in _TURNING_TEXTS):
        return False
    return not _SPECIAL_CHUNKS.intersection(chunks)


def _decode_png(content: bytes, rows: int | None = None) -> NDArray[np.uint8] | None:
    """Decode a plain PNG faster than Pillow: uint8 (H, W, 3) of RGB, (H, W) of grey; `rows` takes the first rows only.

    Returns:
        None for a damaged file, so that Pillow decodes it or says what is wrong.
    """
    if rows is not None:  # a header that says so ends decoding there; what follows in the stream is never inflated
        header = content[12:20] + rows.to_bytes(4, "big") + content[24:29]  # name, width, height, kind
        content = content[:12] + header + zlib.crc32(header).to_bytes(4, "big") + content[33:]
    try:
        return pyspng.load(content)
    except (ValueError, RuntimeError):
        return None


def _unreadable(what: str, path: str | Path, reason: Exception | str) -> UnusableFileError:
    said = reason if isinstance(reason, str) else first_line(reason)
    return unusable(path, f"{what} {path} cannot be read ({said}): replace it with an intact image file.")
