"""Composes one miniature street scene: a street with its sides, traffic, people, weather and camera."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from miniature_canvas import INSTANCE_STEP, Brush, Camera, Canvas, Colour, mixed, scaled, value_noise
from miniature_cast import Cast, add_furniture, add_people, add_plants
from miniature_kinds import Kind
from miniature_sides import Side, paint_junction, paint_side, random_side
from miniature_street import Ground, Strip, paint_sky, skyline
from miniature_traffic import add_traffic

SUPERSAMPLING = 2
REFERENCE_HEIGHT = 128
UNENDING = 200.0
WHITE: Colour = (226.0, 226.0, 220.0)
YELLOW: Colour = (222.0, 184.0, 80.0)
FOLIAGE: tuple[Colour, ...] = (
    (72.0, 112.0, 52.0),
    (98.0, 132.0, 60.0),
    (58.0, 88.0, 58.0),
    (168.0, 124.0, 50.0),
    (150.0, 82.0, 46.0),
    (120.0, 126.0, 92.0),
)


@dataclass(frozen=True)
class Scene:
    """A finished scene.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        kind: uint8 (H, W), values of `Kind`.
        instance: uint16 (H, W), number of the instance within its kind; 0 where the kind is not counted.
    """

    image: np.ndarray
    kind: np.ndarray
    instance: np.ndarray


def render(seed: list[int], height: int, width: int) -> Scene:
    """Draw the scene that belongs to a seed.

    Args:
        seed: numbers that determine the scene.
        height: image height in pixels, at least 64.
        width: image width in pixels, at least 64.

    Returns:
        The scene; the same seed and size always give the same one.
    """
    rng = np.random.default_rng(seed)
    unit = SUPERSAMPLING * height / REFERENCE_HEIGHT
    canvas = Canvas(height * SUPERSAMPLING, width * SUPERSAMPLING, unit)
    camera = Camera(
        focal=float(rng.uniform(1.1, 1.3)) * canvas.shape[0],
        horizon=float(rng.uniform(0.36, 0.46)) * canvas.shape[0],
        centre=float(rng.uniform(0.4, 0.6)) * canvas.shape[1],
        height=float(rng.uniform(1.5, 1.9)),
    )
    Street(canvas, camera, rng).paint()
    _weather(canvas, rng)
    _foreground(canvas, rng)
    return _finish(canvas, rng, height, width)


@dataclass
class Street:
    """Everything in front of the camera.

    Attributes:
        canvas, camera, rng: where, from where and with which randomness to draw.
        foliage, grass: colours of leaves and of the ground they grow on.
        centre, half_width: X of the middle of the road, and half its width, in metres.
        stop: Z of the crossing road that ends the street; UNENDING where there is none.
    """

    canvas: Canvas
    camera: Camera
    rng: np.random.Generator
    foliage: Colour = field(init=False)
    grass: Colour = field(init=False)
    centre: float = field(init=False)
    half_width: float = field(init=False)
    stop: float = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng
        self.foliage = mixed(FOLIAGE[rng.integers(len(FOLIAGE))], FOLIAGE[rng.integers(len(FOLIAGE))], 0.35)
        self.grass = mixed(FOLIAGE[rng.integers(len(FOLIAGE))], (176.0, 150.0, 110.0), float(rng.uniform(0.1, 0.6)))
        self.centre = float(rng.uniform(-1.3, 1.3))
        self.half_width = float(rng.uniform(3.0, 4.2))
        self.stop = float(rng.uniform(17.0, 30.0)) if rng.uniform() < 0.35 else UNENDING

    def paint(self) -> None:
        """Paint the street from the sky to the nearest passer-by."""
        rng, camera = self.rng, self.camera
        air = paint_sky(self.canvas, rng, camera.horizon)
        tracks = int(rng.choice([-1, 0, 1], p=[0.18, 0.64, 0.18]))
        sides = [random_side(rng, side, self.centre + side * self.half_width, tracks == side) for side in (-1, 1)]
        haze = float(rng.uniform(0.0, 0.45))
        sun = rng.permutation([float(rng.uniform(0.62, 0.85)), float(rng.uniform(0.95, 1.15))])
        brush = Brush(self.canvas, camera.ground(), Kind.ROAD, haze=air)
        skyline(brush.hazed(60.0, haze), camera, rng, self.foliage)
        self._paint_ground(sides)
        if self.stop < UNENDING:
            paint_junction(brush.hazed(self.stop, haze), camera, rng, self.stop + 7.0, self.foliage)
        for side, light in zip(sides, sun, strict=True):
            paint_side(brush.in_frame(camera.ground(), light), camera, rng, side, self.foliage, self.stop, haze)
        left, right = self.centre - self.half_width, self.centre + self.half_width
        cast = Cast(brush, camera, rng, left, right, sides, self.stop, self.foliage)
        for add in (add_traffic, add_furniture, add_people, add_plants):
            add(cast)
        for _, draw in sorted(cast.drawings, key=lambda drawing: drawing[0]):
            draw()

    def _paint_ground(self, sides: list[Side]) -> None:
        rng = self.rng
        ground = Ground(self.canvas, self.camera, rng)
        asphalt = mixed((70.0, 70.0, 74.0), (150.0, 146.0, 140.0), float(rng.uniform()))
        paving = mixed((104.0, 102.0, 100.0), (196.0, 184.0, 170.0), float(rng.uniform()))
        colours = {
            Kind.ROAD: asphalt,
            Kind.PARKING: scaled(asphalt, 0.9),
            Kind.SIDEWALK: paving,
            Kind.RAIL_TRACK: mixed((96.0, 84.0, 76.0), asphalt, 0.4),
            Kind.GRASS: self.grass,
            Kind.SOIL: mixed((132.0, 104.0, 76.0), (186.0, 164.0, 132.0), float(rng.uniform())),
        }
        ground.paint(Strip(sides[0].edge, sides[1].edge, Kind.ROAD, asphalt))
        for side in sides:
            for strip in side.strips:
                ground.paint(Strip(strip.left, strip.right, strip.kind, colours[strip.kind]))
        if self.stop < UNENDING:
            ground.paint(Strip(-1e9, 1e9, Kind.ROAD, asphalt, self.stop, self.stop + 4.5))
            ground.paint(Strip(-1e9, 1e9, Kind.SIDEWALK, paving, self.stop + 4.5, self.stop + 7.0))
            ground.paint(Strip(-1e9, 1e9, Kind.GRASS, self.grass, self.stop + 7.0, 1e9))
        self._mark(ground, sides, paving)
        if rng.uniform() < 0.35:
            side = int(rng.choice([-1, 1]))
            ground.shade(self.centre + side * float(rng.uniform(-1.0, 4.0)), side, float(rng.uniform(0.5, 0.75)))

    def _mark(self, ground: Ground, sides: list[Side], paving: Colour) -> None:
        rng, stop = self.rng, min(self.stop, 60.0)
        paint = YELLOW if rng.uniform() < 0.25 else WHITE
        dash = 0.0 if rng.uniform() < 0.25 else 2.0
        ground.mark(self.centre - 0.09, self.centre + 0.09, paint, dash, stop=stop)
        if rng.uniform() < 0.3:
            ground.zebra(sides[0].edge, sides[1].edge, float(rng.uniform(5.0, 10.0)), WHITE)
        for side in sides:
            edge = side.edge
            if rng.uniform() < 0.6:
                ground.mark(edge - side.sign * 0.4 - 0.07, edge - side.sign * 0.4 + 0.07, WHITE, stop=stop)
            for rail in side.rails:
                ground.mark(rail - 0.06, rail + 0.06, (188.0, 190.0, 194.0))
            if not side.verge:
                ground.mark(side.curb - 0.12, side.curb + 0.12, scaled(paving, 1.22), stop=stop)


# Grain of the materials that fill large areas: kind, blob size (vertical, horizontal), strength.
GRAIN: tuple[tuple[Kind, tuple[float, float], float], ...] = (
    (Kind.TREE, (1.6, 1.6), 0.34),
    (Kind.TREE, (4.0, 4.0), 0.22),
    (Kind.BUSH, (1.4, 1.4), 0.34),
)


def _weather(canvas: Canvas, rng: np.random.Generator) -> None:
    # Leaves get their grain, then the whole picture its exposure, white balance and contrast.
    kinds = canvas.kinds()
    for kind, cell, strength in GRAIN:
        inside = kinds == kind
        noise = value_noise(rng, canvas.shape, (cell[0] * canvas.unit, cell[1] * canvas.unit))
        canvas.image[inside] *= (1.0 + strength * noise[inside])[:, None]
    gain = np.float32(rng.uniform(0.82, 1.25)) * rng.uniform(0.92, 1.08, 3).astype(np.float32)
    contrast = np.float32(rng.uniform(0.8, 1.15))
    canvas.image -= 120.0
    canvas.image *= contrast
    canvas.image += 120.0
    canvas.image *= gain
    light = value_noise(rng, canvas.shape, (60.0 * canvas.unit, 60.0 * canvas.unit))
    canvas.image *= (1.0 + 0.1 * light)[..., None]


def _foreground(canvas: Canvas, rng: np.random.Generator) -> None:
    # The bonnet of the own car, and the border that rectification leaves.
    height, width = canvas.shape
    if rng.uniform() < 0.5:
        top = height * float(rng.uniform(0.91, 0.96))
        colour = scaled((90.0, 94.0, 102.0), float(rng.uniform(0.3, 1.0)))
        angle = np.linspace(np.pi, 2.0 * np.pi, 30)
        rim = np.stack([width * (0.5 + 0.62 * np.cos(angle)), height + (height - top) * 1.15 * np.sin(angle)], axis=1)
        canvas.fill(rim, colour, Kind.EGO_VEHICLE * INSTANCE_STEP)
        canvas.fill(rim + (0.0, height * 0.022), scaled(colour, 1.35), None, alpha=0.5)
    if rng.uniform() < 0.25:
        border = int(2 * canvas.unit)
        for region in (np.s_[-border:], np.s_[:, :border]):
            canvas.image[region] = 0.0
            canvas.label[region] = Kind.BORDER * INSTANCE_STEP


def _finish(canvas: Canvas, rng: np.random.Generator, height: int, width: int) -> Scene:
    image = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
    image += rng.normal(0.0, float(rng.uniform(1.0, 4.0)), (height, width, 1)).astype(np.float32)
    image += rng.normal(0.0, 1.5, image.shape).astype(np.float32)
    label = canvas.label[::SUPERSAMPLING, ::SUPERSAMPLING]
    return Scene(
        image=np.clip(image + 0.5, 0, 255).astype(np.uint8),
        kind=(label // INSTANCE_STEP).astype(np.uint8),
        instance=(label % INSTANCE_STEP).astype(np.uint16),
    )
