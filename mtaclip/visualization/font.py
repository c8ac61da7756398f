"""The font of pictures."""

from functools import lru_cache

from matplotlib.font_manager import FontProperties, findfont
from PIL import ImageFont


@lru_cache(maxsize=8)
def sans_font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures, DejaVu Sans, which comes with matplotlib.

    Args:
        size: in pixels.
    """
    return ImageFont.truetype(findfont(FontProperties(family="DejaVu Sans")), size)
