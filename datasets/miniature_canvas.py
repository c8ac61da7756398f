"""Drawing tools of the miniature street scenes: a labelled canvas, a camera and brushes for flat shapes in space.

World coordinates are metres: X to the right, Y up from the ground, Z away from the camera. Image coordinates are
pixels of the canvas, x to the right and y down. Colours are (red, green, blue), 0..255.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]]
Frame = Callable[[np.ndarray], np.ndarray]

SHIFT = 4  # fractional bits of the vertices given to OpenCV
FAR_OFF = 30000.0  # vertices are clipped to this many pixels, well inside OpenCV's integer range
NEAR = 0.3  # metres; what is nearer is projected as if it were here
INSTANCE_STEP = 1000  # a canvas label is kind * INSTANCE_STEP + instance number
ANGLES = np.arange(20) * (2.0 * np.pi / 20)
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)  # vertices of a unit circle, (20, 2)

# Everything that is painted or dressed takes its colour from this one list: colour tells no class from another.
PAINTS: tuple[Colour, ...] = (
    (196, 60, 48),
    (150, 84, 58),
    (206, 140, 84),
    (214, 188, 92),
    (112, 142, 66),
    (66, 116, 88),
    (72, 132, 176),
    (54, 76, 138),
    (128, 92, 140),
    (222, 216, 202),
    (170, 166, 158),
    (122, 124, 128),
    (84, 86, 92),
    (52, 52, 58),
)


def random_paint(rng: np.random.Generator) -> Colour:
    """Draw a colour: one of `PAINTS`, jittered in brightness and in each channel."""
    base = np.array(PAINTS[rng.integers(len(PAINTS))])
    return as_colour(base * rng.uniform(0.75, 1.12) + rng.normal(0.0, 9.0, 3))


def as_colour(values: Sequence[float] | np.ndarray) -> Colour:
    """Clip three numbers to 0..255."""
    red, green, blue = (min(max(float(value), 0.0), 255.0) for value in values)
    return red, green, blue


def scaled(colour: Colour, factor: float) -> Colour:
    """Make a colour brighter or darker."""
    return as_colour([channel * factor for channel in colour])


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """Mix two colours; `share` (0..1) is the second one's part."""
    return as_colour([a + (b - a) * share for a, b in zip(first, second, strict=True)])


def value_noise(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[float, float]) -> np.ndarray:
    """Smooth random field.

    Args:
        rng: source of randomness.
        shape: (height, width) of the field in pixels.
        cell: (vertical, horizontal) size of one blob in pixels.

    Returns:
        float32 array of `shape`, roughly -1..1.
    """
    rows, columns = (max(2, int(np.ceil(size / step)) + 1) for size, step in zip(shape, cell, strict=True))
    coarse = rng.uniform(-1.0, 1.0, (rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Camera:
    """Pinhole camera that looks along Z, without roll or tilt.

    Attributes:
        focal: focal length in canvas pixels.
        horizon: image row of the horizon.
        centre: image column of the vanishing point.
        height: metres above the ground.
    """

    focal: float
    horizon: float
    centre: float
    height: float

    def project(self, world: np.ndarray) -> np.ndarray:
        """Map world points (N, 3) to image points (N, 2)."""
        scale = self.focal / np.maximum(world[:, 2:], NEAR)
        return world[:, :2] * scale * (1.0, -1.0) + (0.0, self.height) * scale + (self.centre, self.horizon)

    def facing(self, x: float, z: float, flip: bool = False) -> Frame:
        """Frame of a shape that faces the camera: local (u, v) is X = x + u (or x - u if `flip`), Y = v, Z = z."""
        sign = -1.0 if flip else 1.0
        scale = self.focal / max(z, NEAR)
        stretch = (sign * scale, -scale)
        origin = (self.centre + scale * x, self.horizon + scale * self.height)
        return lambda uv: uv * stretch + origin

    def receding(self, x: float, z: float, length: float = 0.0, lean: float = 0.0) -> Frame:
        """Frame of a shape seen along the street.

        Args:
            x: X of its plane.
            z: Z of its near end.
            length: 0 if u runs away from the camera (Z = z + u), else the length of a shape that heads for the
                camera (Z = z + length - u).
            lean: metres by which the plane moves along X between 1.0 m and 1.5 m above ground (a car's cabin).

        Returns:
            Frame whose local (u, v) is along the street and up.
        """

        def frame(uv: np.ndarray) -> np.ndarray:
            along = length - uv[:, 0] if length else uv[:, 0]
            across = x + lean * np.clip((uv[:, 1] - 1.0) / 0.5, 0.0, 1.0)
            return self.project(np.stack([across, uv[:, 1], z + along], axis=1))

        return frame

    def ground(self) -> Frame:
        """Frame of a shape that lies on the ground: local (u, v) is X = u, Z = v."""
        return lambda uv: self.project(np.stack([uv[:, 0], np.zeros(len(uv)), uv[:, 1]], axis=1))


class Canvas:
    """A picture and what each of its pixels shows.

    Attributes:
        image: float32 (H, W, 3), RGB, 0..255.
        label: int32 (H, W), kind * INSTANCE_STEP + instance number.
        unit: canvas pixels per pixel of the reference picture, which is 128 pixels high.
    """

    def __init__(self, height: int, width: int, unit: float) -> None:
        self.image = np.zeros((height, width, 3), dtype=np.float32)
        self.label = np.zeros((height, width), dtype=np.int32)
        self.unit = unit

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.label.shape

    def kinds(self) -> np.ndarray:
        """Kind of each pixel, int32 (H, W)."""
        return self.label // INSTANCE_STEP

    def fill(self, points: np.ndarray, colour: Colour | None, label: int | None, alpha: float = 1.0) -> None:
        """Fill a polygon.

        Args:
            points: vertices in pixels, float (N, 2).
            colour: colour of the picture, None leaves the picture as it is.
            label: label to write, None leaves the labels as they are.
            alpha: opacity of the colour; the label is always written in full.
        """
        vertices = np.clip(points, -FAR_OFF, FAR_OFF)
        vertices = np.round(vertices * (1 << SHIFT)).astype(np.int32)[None]
        if label is not None:
            cv2.fillPoly(self.label, vertices, label, shift=SHIFT)
        if colour is None:
            return
        if alpha >= 1.0:
            cv2.fillPoly(self.image, vertices, colour, shift=SHIFT)
        else:
            self._blend(points, vertices, colour, alpha)

    def _blend(self, points: np.ndarray, vertices: np.ndarray, colour: Colour, alpha: float) -> None:
        height, width = self.shape
        left, top = np.clip(np.floor(points.min(axis=0)), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(points.max(axis=0)) + 1, 0, (width, height)).astype(int)
        if right <= left or bottom <= top:
            return
        mask = np.zeros((bottom - top, right - left), dtype=np.uint8)
        offset = np.array([left, top], dtype=np.int32) * (1 << SHIFT)
        cv2.fillPoly(mask, vertices - offset, 1, shift=SHIFT)
        region = self.image[top:bottom, left:right]
        weight = (mask * np.float32(alpha))[..., None]
        region += weight * (np.array(colour, dtype=np.float32) - region)

    def stroke(self, points: np.ndarray, width: float, colour: Colour, label: int | None) -> None:
        """Draw an open line of `width` pixels through points (N, 2)."""
        vertices = np.round(np.clip(points, -FAR_OFF, FAR_OFF) * (1 << SHIFT)).astype(np.int32)[None]
        thickness = max(1, int(width + 0.5))
        cv2.polylines(self.image, vertices, False, colour, thickness, shift=SHIFT)
        if label is not None:
            cv2.polylines(self.label, vertices, False, label, thickness, shift=SHIFT)

    def hang(self, texture: np.ndarray, corners: np.ndarray, label: int) -> None:
        """Hang a texture on a quadrilateral.

        Args:
            texture: float32 (h, w, 3), row 0 at the top.
            corners: (4, 2) image points of the texture's top left, top right, bottom right and bottom left.
            label: label of the quadrilateral.
        """
        height, width = texture.shape[:2]
        left, top = np.clip(np.floor(corners.min(axis=0)), 0, self.shape[::-1]).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(axis=0)) + 1, 0, self.shape[::-1]).astype(int)
        if right <= left or bottom <= top:
            return
        local = corners - (left, top)
        source = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
        matrix = cv2.getPerspectiveTransform(source, local.astype(np.float32))
        size = (int(right - left), int(bottom - top))
        warped = cv2.warpPerspective(texture, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mask = np.zeros((size[1], size[0]), dtype=np.uint8)
        vertices = np.round(np.clip(local, -FAR_OFF, FAR_OFF) * (1 << SHIFT)).astype(np.int32)[None]
        cv2.fillPoly(mask, vertices, 1, shift=SHIFT)
        inside = mask.astype(bool)
        self.image[top:bottom, left:right][inside] = warped[inside]
        self.label[top:bottom, left:right][inside] = label

    def darken(self, points: np.ndarray, factor: float) -> None:
        """Multiply the picture inside a polygon by `factor`: a cast shadow. Labels stay."""
        self.fill(points, (0.0, 0.0, 0.0), None, alpha=1.0 - factor)


@dataclass(frozen=True)
class Brush:
    """Draws shapes given in a frame's local metres, as one kind and one instance.

    Attributes:
        canvas: where to draw.
        frame: maps local points (N, 2) to pixels.
        kind: kind of what is drawn.
        instance: number of the instance within its kind, 0 for kinds that are not counted.
        light: factor on every colour.
        haze: colour of the air.
        thickness_of_air: share of the air's colour, 0..1.
    """

    canvas: Canvas
    frame: Frame
    kind: int
    instance: int = 0
    light: float = 1.0
    haze: Colour = (200.0, 205.0, 210.0)
    thickness_of_air: float = 0.0

    def of_kind(self, kind: int, instance: int = 0) -> "Brush":
        """Return the same brush for another kind."""
        return replace(self, kind=kind, instance=instance)

    def in_frame(self, frame: Frame, light: float = 1.0) -> "Brush":
        """Return the same brush for another frame, its light multiplied by `light`."""
        return replace(self, frame=frame, light=self.light * light)

    def hazed(self, depth: float, density: float) -> "Brush":
        """Return the same brush for things `depth` metres away in air of some density (0 = clear, 0.5 = misty)."""
        return replace(self, thickness_of_air=1.0 - float(np.exp(-density * depth / 60.0)))

    def tint(self, colour: Colour) -> Colour:
        """Colour as it looks from the camera: lit, then veiled by the air."""
        return mixed(scaled(colour, self.light), self.haze, self.thickness_of_air)

    def polygon(self, points: Points, colour: Colour, alpha: float = 1.0) -> None:
        """Fill a polygon given in local metres."""
        label = self.kind * INSTANCE_STEP + self.instance
        self.canvas.fill(self.frame(np.array(points, dtype=np.float64)), self.tint(colour), label, alpha)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour, alpha: float = 1.0) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, bottom), (left, top), (right, top), (right, bottom)], colour, alpha)

    def disc(self, u: float, v: float, radius: float, colour: Colour, alpha: float = 1.0) -> None:
        """Fill a disc."""
        self.ellipse(u, v, radius, radius, colour, alpha)

    def ellipse(self, u: float, v: float, ru: float, rv: float, colour: Colour, alpha: float = 1.0) -> None:
        """Fill an ellipse with radii `ru` and `rv`."""
        self.polygon(CIRCLE * (ru, rv) + (u, v), colour, alpha)

    def bar(self, start: tuple[float, float], end: tuple[float, float], width: float, colour: Colour) -> None:
        """Fill a straight bar of `width` metres between two points."""
        a, b = np.array(start, dtype=np.float64), np.array(end, dtype=np.float64)
        along = b - a
        normal = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-6) * width / 2.0
        self.polygon([a + normal, b + normal, b - normal, a - normal], colour)

    def ring(self, u: float, v: float, radius: float, width: float, colour: Colour) -> None:
        """Draw a circle's outline, `width` metres wide."""
        points = self.frame(np.concatenate([CIRCLE, CIRCLE[:1]]) * radius + (u, v))
        scale = float(np.ptp(points[:, 1])) / (2.0 * radius)
        label = self.kind * INSTANCE_STEP + self.instance
        self.canvas.stroke(points, width * scale, self.tint(colour), label)

    def hang(self, texture: np.ndarray, left: float, right: float, height: float) -> None:
        """Hang a texture (see `Canvas.hang`) between u = `left` and u = `right`, from the ground to `height` metres."""
        corners = self.frame(np.array([(left, height), (right, height), (right, 0.0), (left, 0.0)]))
        air = np.array(self.haze, np.float32) * np.float32(self.thickness_of_air)
        lit = texture * np.float32(self.light * (1.0 - self.thickness_of_air)) + air
        self.canvas.hang(lit, corners, self.kind * INSTANCE_STEP + self.instance)
