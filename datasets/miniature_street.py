"""Sky, ground, facades, walls, fences and skylines of the miniature scenes: everything that does not move."""

from dataclasses import dataclass

import cv2
import numpy as np
from miniature_canvas import (
    INSTANCE_STEP,
    Brush,
    Camera,
    Canvas,
    Colour,
    as_colour,
    mixed,
    random_paint,
    scaled,
    value_noise,
)
from miniature_kinds import Kind

GREY: Colour = (128.0, 128.0, 128.0)


@dataclass(frozen=True)
class Strip:
    """A strip of ground along the street.

    Attributes:
        left, right: its range of X in metres.
        kind: ROAD, SIDEWALK, PARKING, RAIL_TRACK, GRASS or SOIL.
        colour: mean colour.
        start, stop: its range of Z in metres.
    """

    left: float
    right: float
    kind: Kind
    colour: Colour
    start: float = 0.0
    stop: float = 1e9


def paint_sky(canvas: Canvas, rng: np.random.Generator, horizon: float) -> Colour:
    """Fill the canvas with sky, from blue to overcast to evening; returns the colour of the air at the horizon."""
    height, width = canvas.shape
    tops = ((86, 136, 198), (122, 168, 214), (150, 154, 160), (188, 192, 196), (112, 116, 126), (148, 128, 150))
    lows = ((184, 208, 228), (206, 218, 228), (176, 178, 180), (214, 214, 212), (228, 190, 150), (206, 200, 196))
    top, low = as_colour(tops[rng.integers(6)]), as_colour(lows[rng.integers(6)])
    share = np.clip(np.arange(height) / max(horizon, 1.0), 0.0, 1.0)[:, None, None].astype(np.float32)
    canvas.image[:] = np.array(top, np.float32) * (1.0 - share) + np.array(low, np.float32) * share
    clouds = value_noise(rng, (height, width), (9 * canvas.unit, 34 * canvas.unit))
    clouds += 0.5 * value_noise(rng, (height, width), (4 * canvas.unit, 12 * canvas.unit))
    cover = np.clip(clouds * 1.2 - rng.uniform(-0.2, 0.8), 0.0, 0.75)[..., None]
    canvas.image += cover * (float(rng.uniform(190, 245)) - canvas.image)
    canvas.label[:] = Kind.SKY * INSTANCE_STEP
    return low


class Ground:
    """The plane Y = 0: strips of road, sidewalk, grass and so on, seen in perspective.

    Attributes:
        x, z: world coordinates of every canvas pixel below the horizon, float32 (h, W).
    """

    def __init__(self, canvas: Canvas, camera: Camera, rng: np.random.Generator) -> None:
        height, width = canvas.shape
        self.canvas, self.rng = canvas, rng
        self.top = int(camera.horizon) + 1
        rows = np.arange(self.top, height, dtype=np.float32)[:, None] + 0.5
        columns = np.arange(width, dtype=np.float32)[None] + 0.5
        self.z = camera.focal * camera.height / np.maximum(rows - camera.horizon, 0.25) + 0.0 * columns
        self.x = (columns - camera.centre) * self.z / camera.focal
        self.step = self.z**2 / (camera.focal * camera.height)  # metres of depth per pixel row
        self.fine = self._noise(1.3, 1.8)
        self.coarse = self._noise(7.0, 24.0)

    def _noise(self, vertical: float, horizontal: float) -> np.ndarray:
        unit = self.canvas.unit
        return value_noise(self.rng, self.x.shape, (vertical * unit, horizontal * unit))

    def paint(self, strip: Strip) -> None:
        """Paint one strip."""
        inside = (self.x >= strip.left) & (self.x < strip.right) & (self.z >= strip.start) & (self.z < strip.stop)
        gain = self._relief(strip)
        region = self.canvas.image[self.top :]
        region[inside] = np.array(strip.colour, np.float32) * gain[inside][:, None]
        self.canvas.label[self.top :][inside] = strip.kind * INSTANCE_STEP

    def _relief(self, strip: Strip) -> np.ndarray:
        if strip.kind == Kind.SIDEWALK:
            joints = self._lines(self.x - strip.left, 0.85, 0.08) | (
                self._lines(self.z, 0.85, 0.08) & (self.step < 0.3)
            )
            return np.where(joints, 0.72, 1.0) + 0.04 * self.fine
        if strip.kind == Kind.GRASS:
            return 1.0 + 0.26 * self._noise(2.6, 1.1) + 0.14 * self.coarse
        if strip.kind == Kind.SOIL:
            return 1.0 + 0.16 * self._noise(2.2, 4.0) + 0.16 * self.coarse + 0.08 * self.fine
        if strip.kind == Kind.RAIL_TRACK:
            sleepers = self._lines(self.z, 0.7, 0.28) & (self.step < 0.35)
            return np.where(sleepers, 0.7, 1.0) + 0.14 * self.fine
        return 1.0 + 0.05 * self.fine + 0.07 * self.coarse

    @staticmethod
    def _lines(position: np.ndarray, spacing: float, width: float) -> np.ndarray:
        return np.mod(position, spacing) < width

    def mark(
        self, left: float, right: float, colour: Colour, dash: float = 0.0, start: float = 0, stop: float = 60
    ) -> None:
        """Paint a line along the street, dashed if `dash` (metres) is not 0; it shows what it lies on."""
        inside = (self.x >= left) & (self.x < right) & (self.z >= start) & (self.z < stop)
        if dash:
            inside &= np.mod(self.z, 2.0 * dash) < dash
        region = self.canvas.image[self.top :]
        region[inside] = np.array(colour, np.float32) * (1.0 + 0.06 * self.fine[inside][:, None])

    def zebra(self, left: float, right: float, start: float, colour: Colour) -> None:
        """Paint a pedestrian crossing, 2.5 m deep."""
        for stripe in np.arange(left + 0.2, right - 0.3, 1.0):
            self.mark(float(stripe), float(stripe) + 0.5, colour, start=start, stop=start + 2.5)

    def shade(self, boundary: float, side: int, factor: float) -> None:
        """Cast the shadow of one side of the street on the ground left (-1) or right (+1) of X = `boundary`."""
        inside = self.x * side > boundary * side
        self.canvas.image[self.top :][inside] *= factor


def facade(rng: np.random.Generator, kind: Kind, size: tuple[float, float], scale: float) -> np.ndarray:
    """Paint the front of a building.

    Args:
        rng: source of randomness.
        kind: BUILDING, HOUSE or TOWER.
        size: (width, height) in metres.
        scale: texture pixels per metre.

    Returns:
        float32 (height, width, 3) texture, row 0 at the eaves.
    """
    width, height = (max(8, int(metres * scale)) for metres in size)
    base = mixed(random_paint(rng), GREY, float(rng.uniform(0.0, 0.5)))
    texture = np.empty((height, width, 3), np.float32)
    texture[:] = base
    if kind != Kind.TOWER and rng.uniform() < 0.6:
        _courses(texture, rng, scale, 0.9, 0.4, 0.82)
    texture *= 1.0 + 0.05 * value_noise(rng, (height, width), (3.0, 3.0))[..., None]
    _windows(texture, rng, kind, scale)
    if kind == Kind.BUILDING and rng.uniform() < 0.6:
        _shop(texture, rng, scale)
    cornice = max(1, int(0.35 * scale))
    texture[:cornice] = scaled(base, 1.25)
    texture[:, :1] *= 0.75
    return texture


def _courses(
    texture: np.ndarray, rng: np.random.Generator, scale: float, length: float, rise: float, dark: float
) -> None:
    # Rows of bricks or blocks: every other row is shifted by half a stone, each stone has its own brightness.
    height, width = texture.shape[:2]
    row = (np.arange(height) / (rise * scale)).astype(int)
    column = ((np.arange(width)[None] / (length * scale)) + 0.5 * (row[:, None] % 2)).astype(int)
    tone = rng.uniform(0.86, 1.12, (row.max() + 1, column.max() + 1)).astype(np.float32)
    texture *= tone[row[:, None], column][..., None]
    joint = (np.diff(row, prepend=-1) != 0)[:, None] | (np.diff(column, axis=1, prepend=-1) != 0)
    texture[joint] *= dark


def _windows(texture: np.ndarray, rng: np.random.Generator, kind: Kind, scale: float) -> None:
    height, width = texture.shape[:2]
    floor, bay, tall, wide = (3.0, 3.0, 2.5, 2.6) if kind == Kind.TOWER else (3.0, 2.4, 1.7, 1.25)
    frame_colour = (225.0, 222.0, 214.0) if rng.uniform() < 0.6 else (62.0, 56.0, 52.0)
    dark, bright = (30.0, 36.0, 46.0), (150.0, 172.0, 190.0)
    border = max(1, int(0.14 * scale))
    for top in np.arange(0.8, height / scale - 1.8, floor):
        for left in np.arange(0.55, width / scale - wide, bay):
            y0, x0 = int(top * scale), int(left * scale)
            y1, x1 = int((top + tall) * scale), int((left + wide) * scale)
            cv2.rectangle(texture, (x0 - border, y0 - border), (x1 + border, y1 + border), frame_colour, -1)
            glass = mixed(dark, bright, float(rng.uniform(0.0, 0.7)))
            cv2.rectangle(texture, (x0, y0), (x1, y1), (240.0, 212.0, 140.0) if rng.uniform() < 0.08 else glass, -1)
            if kind != Kind.TOWER:
                texture[y0:y1, (x0 + x1) // 2 : (x0 + x1) // 2 + border] = frame_colour


def _shop(texture: np.ndarray, rng: np.random.Generator, scale: float) -> None:
    height, width = texture.shape[:2]
    top = height - int(2.9 * scale)
    if top <= 0:
        return
    texture[top:] = scaled(random_paint(rng), 0.6)
    lintel = top + int(0.9 * scale)
    texture[lintel : height - int(0.5 * scale), int(0.3 * scale) : width - int(1.6 * scale)] = (70, 84, 92)
    texture[lintel:, width - int(1.3 * scale) : width - int(0.4 * scale)] = (44, 36, 32)
    awning = texture[top : top + int(0.75 * scale)]
    stripes = (np.arange(width) / (0.5 * scale)).astype(int) % 2 == 0
    awning[:, stripes] = random_paint(rng)
    awning[:, ~stripes] = (232.0, 228.0, 218.0)


def stone_wall(rng: np.random.Generator, size: tuple[float, float], scale: float) -> np.ndarray:
    """Paint a free-standing wall of large blocks with a pale coping; same arguments and result as `facade`."""
    width, height = (max(6, int(metres * scale)) for metres in size)
    texture = np.empty((height, width, 3), np.float32)
    texture[:] = mixed(random_paint(rng), GREY, float(rng.uniform(0.1, 0.5)))
    _courses(texture, rng, scale, 1.1, 0.5, 0.55)
    texture *= 1.0 + 0.08 * value_noise(rng, (height, width), (2.0, 2.0))[..., None]
    coping = max(2, int(0.2 * scale))
    texture[:coping] = scaled(mixed(as_colour(texture.mean(axis=(0, 1))), (235.0, 232.0, 224.0), 0.5), 1.1)
    texture[coping : coping + max(1, coping // 2)] *= 0.55
    return texture


def fence(brush: Brush, rng: np.random.Generator, length: float, height: float, mesh: bool) -> None:
    """Draw a fence along u = 0 .. `length`: posts with rails and either pickets or mesh, seen through in between."""
    colour = random_paint(rng)
    brush.box(0.0, 0.0, length, height, scaled(colour, 0.6), alpha=0.35)
    spacing = 0.34
    for u in np.arange(0.0, length, spacing):
        if mesh:
            brush.bar((u, 0.05), (u + height * 0.6, height), 0.07, colour)
            brush.bar((u + height * 0.6, 0.05), (u, height), 0.07, colour)
        else:
            brush.polygon(
                [(u, 0.0), (u, height), (u + 0.08, height + 0.12), (u + 0.16, height), (u + 0.16, 0.0)], colour
            )
    for v in (0.2 * height, 0.85 * height):
        brush.bar((0.0, v), (length, v), 0.13, scaled(colour, 0.8))
    for u in np.arange(0.0, length, 2.4):
        brush.box(u, 0.0, u + 0.2, height + 0.15, scaled(colour, 0.6))


def roof(brush: Brush, rng: np.random.Generator, length: float, eaves: float) -> None:
    """Draw a tiled roof above the eaves along u = 0 .. `length`."""
    tiles = mixed((134.0, 66.0, 48.0), random_paint(rng), float(rng.uniform(0.0, 0.7)))
    brush.polygon([(0.0, eaves), (0.5, eaves + 2.4), (length - 0.5, eaves + 2.4), (length, eaves)], tiles)
    for v in np.arange(0.3, 2.4, 0.45):
        brush.bar((v * 0.2, eaves + v), (length - v * 0.2, eaves + v), 0.12, scaled(tiles, 0.75))
    brush.box(length * 0.6, eaves + 1.4, length * 0.6 + 0.7, eaves + 3.0, scaled(tiles, 0.85))


def skyline(brush: Brush, camera: Camera, rng: np.random.Generator, foliage: Colour) -> None:
    """Draw what is far away: a row of towers, a line of trees or both."""
    style = rng.integers(3)
    if style != 0:
        towers = brush.of_kind(Kind.TOWER)
        for _ in range(int(rng.integers(4, 9))):
            distance = float(rng.uniform(70.0, 110.0))
            tower = towers.in_frame(camera.facing(float(rng.uniform(-70.0, 70.0)), distance))
            _tower(tower, rng, float(rng.uniform(7.0, 14.0)), float(rng.uniform(10.0, 34.0)))
    if style != 1:
        trees = brush.of_kind(Kind.TREE).in_frame(camera.facing(0.0, 60.0))
        for u in np.arange(-70.0, 70.0, 2.2):
            radius = float(rng.uniform(2.0, 4.0))
            trees.disc(u, radius * 0.8, radius, scaled(foliage, float(rng.uniform(0.75, 1.05))))


def _tower(brush: Brush, rng: np.random.Generator, width: float, height: float) -> None:
    colour = mixed(random_paint(rng), GREY, 0.4)
    brush.box(0.0, 0.0, width, height, colour)
    for v in np.arange(2.0, height - 1.5, 3.2):
        for u in np.arange(1.0, width - 1.8, 2.8):
            brush.box(u, v, u + 1.7, v + 1.8, scaled(colour, float(rng.uniform(0.45, 0.75))))
