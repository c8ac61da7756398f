"""Reads the upper left corner of an RGB PNG without decoding the rest of it.

A PNG's rows are filtered, each from the row above and the pixel to the left, and then compressed as one stream. What
lies below a corner need not be decompressed, and what lies to the right of it need not be unfiltered.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">IIBBBBB")  # width, height, bits per channel, colour type, compression, filter, interlacing
_PLAIN = (8, 2, 0, 0, 0)  # 8 bits per channel, RGB, the only compression, the only filters, no interlacing
# What may turn the image (EXIF and XMP, in all their disguises) or make several of it.
_SPECIAL_CHUNKS = (b"eXIf", b"acTL")
_SPECIAL_TEXTS = (b"Raw profile type", b"XML:com.adobe.xmp")


@dataclass(frozen=True)
class PlainPng:
    """An undamaged 8-bit RGB PNG that is shown as it is stored; `height, width` in pixels."""

    height: int
    width: int
    _compressed: tuple[memoryview, ...]

    @classmethod
    def parse(cls, data: bytes) -> "PlainPng | None":
        """Look at a file's bytes and check all their checksums.

        Returns:
            The image, or None for everything else: other formats and kinds of PNG, and damaged files.
        """
        if not data.startswith(_SIGNATURE):
            return None
        header, compressed, last = b"", [], b""
        for kind, content in _chunks(data):
            last = kind
            if kind == b"IHDR":
                header = bytes(content)
            elif kind == b"IDAT":
                compressed.append(content)
            elif kind in _SPECIAL_CHUNKS or bytes(content[:32]).startswith(_SPECIAL_TEXTS):
                return None
        if last != b"IEND" or len(header) != _HEADER.size:
            return None
        width, height, *kind = _HEADER.unpack(header)
        return cls(height, width, tuple(compressed)) if tuple(kind) == _PLAIN and width and height else None

    def corner(self, height: int, width: int) -> NDArray[np.uint8] | None:
        """Decode the pixels (height, width, 3), RGB, of the upper left corner; None if the stream is too short."""
        row = 1 + 3 * self.width
        filtered = _decompress(self._compressed, height * row)
        if len(filtered) < height * row:
            return None
        rows = np.frombuffer(filtered, np.uint8).reshape(height, row)[:, : 1 + 3 * width]
        return _unfilter(np.ascontiguousarray(rows))


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of every chunk, up to the first that is cut off or whose checksum is wrong."""
    view, start = memoryview(data), len(_SIGNATURE)
    while start + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, start)
        end = start + 8 + length
        if end + 4 > len(data) or zlib.crc32(view[start + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return
        yield data[start + 4 : start + 8], view[start + 8 : end]
        start = end + 4


def _decompress(parts: tuple[memoryview, ...], size: int) -> bytes:
    """At most the first `size` bytes of a compressed stream; fewer if it ends or is wrong before."""
    stream, found, missing = zlib.decompressobj(), [], size
    for part in parts:
        try:
            found.append(stream.decompress(part, missing))
        except zlib.error:
            break
        missing -= len(found[-1])
        if missing == 0:
            break
    return b"".join(found)


def _unfilter(rows: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Pixels (H, W, 3) of filtered rows (H, 1 + 3 W): OpenCV decodes a PNG of nothing but these rows, uncompressed."""
    height, width = rows.shape[0], rows.shape[1] // 3
    stream = zlib.compressobj(level=0)
    content = stream.compress(rows.data) + stream.flush()
    chunks = [(b"IHDR", _HEADER.pack(width, height, *_PLAIN)), (b"IDAT", content), (b"IEND", b"")]
    png = _SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
