"""Pictures as the content of files."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG of uint8 pixels: (H, W), (H, W, 3) RGB or (H, W, 4) with opacity."""
    return _encoded(pixels, "PNG")


def encode_jpeg(pixels: NDArray[np.uint8], quality: int, **options: int) -> bytes:
    """A JPEG of uint8 RGB pixels (H, W, 3); `quality` and further options are Pillow's."""
    return _encoded(pixels, "JPEG", quality=quality, **options)


def _encoded(pixels: NDArray[np.uint8], kind: str, **options: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()
