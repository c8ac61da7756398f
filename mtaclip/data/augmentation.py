"""Augmentations of training images and the resize of test images, as Detectron2 augmentations.

Images are uint8 (H, W, 3) RGB, label maps uint8 (H, W) with 255 = ignored. All randomness comes from NumPy's global
generator, which `mtaclip.data.sampling` seeds for every sample.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from detectron2.data import transforms as T
from numpy.typing import NDArray

from mtaclip.data.labels import IGNORE_LABEL

_CROP_RETRIES = 10
_HUE_STEPS = 180  # OpenCV's 8-bit hue is in units of two degrees
_MAX_BRIGHTNESS = 32.0
_FACTOR_RANGE = (0.5, 1.5)
_MAX_HUE = 18


class CvResize(T.Transform):
    """Resizes with OpenCV: bilinear for the image, nearest (the source index is rounded down) for labels."""

    def __init__(self, height: int, width: int, new_height: int, new_width: int) -> None:
        """Fix the sizes before and after, in pixels."""
        super().__init__()
        self.height, self.width = height, width
        self.new_height, self.new_width = new_height, new_width

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image (H, W, 3) bilinearly."""
        return self._resize(img, cv2.INTER_LINEAR)

    def apply_segmentation(self, segmentation: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a label map (H, W) without mixing labels."""
        return self._resize(segmentation, cv2.INTER_NEAREST)

    def apply_coords(self, coords: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale points (N, 2), given as (x, y)."""
        return coords * (self.new_width / self.width, self.new_height / self.height)

    def _resize(self, array: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
        if array.shape[:2] != (self.height, self.width):
            raise ValueError(f"this resize is for arrays of {self.height} x {self.width}, not {array.shape[:2]}.")
        return cv2.resize(array, (self.new_width, self.new_height), interpolation=interpolation)


def resize_within(height: int, width: int, short_limit: int, long_limit: int) -> CvResize:
    """Resize so that the image just fits two limits, keeping its aspect ratio.

    Args:
        height, width: size of the image in pixels.
        short_limit: largest length of the shorter edge.
        long_limit: largest length of the longer edge.

    Returns:
        The transform to size int(x * s + 0.5) per edge, with the largest s that keeps to both limits.
    """
    scale = min(short_limit / min(height, width), long_limit / max(height, width))
    return CvResize(height, width, max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))


class ResizeWithin(T.Augmentation):
    """Resizes to within two limits, keeping the aspect ratio; this is the resize at test time."""

    def __init__(self, short_limit: int, long_limit: int) -> None:
        """Fix the limits of the shorter and the longer edge, in pixels."""
        super().__init__()
        self.short_limit, self.long_limit = short_limit, long_limit

    def get_transform(self, image: NDArray[np.uint8]) -> CvResize:
        """Return the resize for an image (H, W, 3)."""
        height, width = image.shape[:2]
        return resize_within(height, width, self.short_limit, self.long_limit)


class ScaleCropTransform(T.Transform):
    """A resize of the whole image and then a crop, that resizes no more than the crop shows.

    Pixels are those of `CvResize` followed by a crop, to the bit. Only the upper left corner of the source, as far as
    the window reaches, is resized: it begins where the image begins, so that the weights of all pixels stay the same.
    """

    def __init__(self, resize: CvResize, top: int, left: int, height: int, width: int) -> None:
        """Fix the resize of the whole image, and the window of the resized image, in pixels."""
        super().__init__()
        self.resize, self.top, self.left = resize, top, left
        self.new_height, self.new_width = height, width
        self.corner = (  # (height, width) of the part of the source that counts
            _source_length(top + height, resize.height, resize.new_height),
            _source_length(left + width, resize.width, resize.new_width),
        )

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop an image (H, W, 3), or what there is of one: (corner's height or more, W, 3)."""
        if img.shape[1] != self.resize.width or not self.corner[0] <= img.shape[0] <= self.resize.height:
            raise ValueError(
                f"this crop is for images of {self.resize.height} x {self.resize.width}, not {img.shape[:2]}."
            )
        resized = cv2.resize(
            img[: self.corner[0], : self.corner[1]],
            None,
            fx=self.resize.new_width / self.resize.width,
            fy=self.resize.new_height / self.resize.height,
            interpolation=cv2.INTER_LINEAR,
        )
        return resized[self.top : self.top + self.new_height, self.left : self.left + self.new_width]

    def apply_segmentation(self, segmentation: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize and crop a label map (H, W) without mixing labels."""
        rows = nearest_indices(self.resize.height, self.resize.new_height)[self.top : self.top + self.new_height]
        columns = nearest_indices(self.resize.width, self.resize.new_width)[self.left : self.left + self.new_width]
        return segmentation.take(rows, axis=0).take(columns, axis=1)  # faster than indexing with arrays

    def apply_coords(self, coords: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale and move points (N, 2), given as (x, y)."""
        return self.resize.apply_coords(coords) - (self.left, self.top)


def nearest_indices(length: int, new_length: int) -> NDArray[np.int64]:
    """Source index of every pixel along an edge that `CvResize` resizes for labels, int64 (new_length,)."""
    step = 1.0 / (new_length / length)  # in OpenCV's order of operations, which decides where the result is whole
    return np.minimum(np.floor(np.arange(new_length) * step).astype(np.int64), length - 1)


def _source_length(end: int, length: int, new_length: int) -> int:
    # The last pixel, end - 1, lies at (end - 0.5) * step - 0.5 of the source: its right neighbour is within this.
    return min(length, math.ceil(end * length / new_length) + 1)


class RandomScaleCrop(T.Augmentation):
    """Resizes to within two limits that are multiplied by a random ratio, and crops a window that no class fills.

    Both limits are multiplied by the same ratio and rounded down. A window is drawn again, up to 10 times, while fewer
    than two classes are in it or the largest one has at least `max_share` of its labelled pixels; the last one drawn
    is kept whatever it shows.
    """

    input_args = ("sem_seg",)  # Detectron2 hands a single argument the image if nothing is said

    def __init__(
        self,
        scale_range: tuple[float, float],
        short_limit: int,
        long_limit: int,
        crop_size: tuple[int, int] | None = None,
        max_share: float = 1.0,
    ) -> None:
        """Fix what is drawn from.

        Args:
            scale_range: of the ratio.
            short_limit, long_limit: of the shorter and the longer edge at ratio 1, in pixels.
            crop_size: (height, width) of the window, clipped to the resized image; None keeps the whole image.
            max_share: the largest class's share; 1 takes any window.

        Raises:
            ValueError: the range is empty or not positive.
        """
        super().__init__()
        if not 0.0 < scale_range[0] <= scale_range[1]:
            raise ValueError(f"INPUT.SCALE_RANGE must be two increasing positive numbers, got {tuple(scale_range)}.")
        self.scale_range, self.short_limit, self.long_limit = scale_range, short_limit, long_limit
        self.crop_size, self.max_share = crop_size, max_share

    def get_transform(self, sem_seg: NDArray[np.uint8]) -> ScaleCropTransform:
        """Draw a ratio and a window; the labels (H, W) decide, the image is not needed."""
        ratio = np.random.uniform(*self.scale_range)
        limits = (max(1, int(limit * ratio)) for limit in (self.short_limit, self.long_limit))
        resize = resize_within(*sem_seg.shape, *limits)
        if self.crop_size is None:
            return ScaleCropTransform(resize, 0, 0, resize.new_height, resize.new_width)
        height, width = min(self.crop_size[0], resize.new_height), min(self.crop_size[1], resize.new_width)
        retries = _CROP_RETRIES if self.max_share < 1.0 else 0
        for attempt in range(retries + 1):
            top = np.random.randint(resize.new_height - height + 1)
            left = np.random.randint(resize.new_width - width + 1)
            crop = ScaleCropTransform(resize, top, left, height, width)
            if attempt == retries or self._is_varied(crop.apply_segmentation(sem_seg)):
                break
        return crop

    def _is_varied(self, labels: NDArray[np.uint8]) -> bool:
        counts = np.bincount(labels.ravel(), minlength=IGNORE_LABEL + 1)[:IGNORE_LABEL]
        return bool(np.count_nonzero(counts) > 1 and counts.max() < self.max_share * counts.sum())


class HorizontalFlip(T.HFlipTransform):
    """Detectron2's flip, whose result lies in memory as OpenCV reads it fastest."""

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Flip an image (H, W, 3) or labels (H, W)."""
        return cv2.flip(img, 1)


class RandomHorizontalFlip(T.RandomFlip):
    """Flips one image in two."""

    def get_transform(self, image: NDArray[np.uint8]) -> T.Transform:
        """Draw whether an image (H, W, 3) is flipped."""
        flip = super().get_transform(image)
        return HorizontalFlip(flip.width) if isinstance(flip, T.HFlipTransform) else flip


class ColourTransform(T.Transform):
    """Applies colour changes to the image, in order; labels and coordinates stay."""

    def __init__(self, steps: list[Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]) -> None:
        """Fix the changes, each from uint8 (H, W, 3) to the same."""
        super().__init__()
        self.steps = steps

    def apply_image(self, img: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Change the colours of an image (H, W, 3), RGB."""
        for step in self.steps:
            img = step(img)
        return img

    def apply_segmentation(self, segmentation: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the labels (H, W) as they are."""
        return segmentation

    def apply_coords(self, coords: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the points (N, 2) as they are."""
        return coords


class PhotometricDistortion(T.Augmentation):
    """Random brightness, contrast, saturation and hue, each with probability 0.5.

    Brightness (-32 .. 32) comes first; contrast (0.5 .. 1.5) follows either at once or at the very end, by a coin;
    between the two come saturation (0.5 .. 1.5) and hue (-18 .. 17 of 180). After every step the result is clipped
    and truncated to uint8.
    """

    def get_transform(self, image: NDArray[np.uint8]) -> ColourTransform:
        """Draw the changes; `image` (H, W, 3) is not read."""
        steps: list[Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = []
        if _coin():
            shift = np.random.uniform(-_MAX_BRIGHTNESS, _MAX_BRIGHTNESS)
            steps.append(lambda img: change_values(img, 1.0, shift))
        contrast_first = _coin()
        if contrast_first:
            steps += _draw_contrast()
        if _coin():
            saturation = np.random.uniform(*_FACTOR_RANGE)
            steps.append(lambda img: change_saturation(img, saturation))
        if _coin():
            turn = int(np.random.randint(-_MAX_HUE, _MAX_HUE))
            steps.append(lambda img: change_hue(img, turn))
        if not contrast_first:
            steps += _draw_contrast()
        return ColourTransform(steps)


def change_values(image: NDArray[np.uint8], factor: float, shift: float) -> NDArray[np.uint8]:
    """Return image * factor + shift, clipped to 0..255 and truncated; any shape."""
    table = np.clip(np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(shift), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table)


def change_saturation(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Multiply the HSV saturation of an RGB image (H, W, 3), clipped and truncated."""
    return _change_hsv(image, 1, lambda saturation: change_values(saturation, factor, 0.0))


def change_hue(image: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """Turn the hue of an RGB image (H, W, 3) by `turn` steps of two degrees."""
    table = ((np.arange(256) + turn) % _HUE_STEPS).astype(np.uint8)
    return _change_hsv(image, 0, lambda hue: cv2.LUT(hue, table))


def _change_hsv(
    image: NDArray[np.uint8], channel: int, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> NDArray[np.uint8]:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.insertChannel(change(cv2.extractChannel(hsv, channel)), hsv, channel)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def _coin() -> bool:
    return bool(np.random.randint(2))


def _draw_contrast() -> list[Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]:
    if not _coin():
        return []
    factor = np.random.uniform(*_FACTOR_RANGE)
    return [lambda img: change_values(img, factor, 0.0)]
