"""Places people, plants and street furniture in a miniature scene so that they hide each other little."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from miniature_canvas import CIRCLE, Brush, Camera, Colour
from miniature_figures import bush, dog, litter_bin, person, street_lamp, traffic_light, traffic_sign, tree
from miniature_kinds import Kind
from miniature_sides import Side

Box = tuple[float, float, float, float]
Range = tuple[float, float]
Figure = Callable[[Brush, np.random.Generator], None]

TRIES = 14
MOST_CROWDED = 0.45


@dataclass
class Cast:
    """What moves in the street, and what stands beside it.

    Attributes:
        brush, camera, rng: with what, from where and with which randomness to draw.
        left, right: X of the road's edges.
        sides: the left and the right side of the street.
        stop: Z where the street ends.
        foliage: colour of leaves.
        drawings: (-Z, draw) of everything placed.
        boxes: image boxes (x0, y0, x1, y1) that are taken.
        counts: last instance number of each kind.
    """

    brush: Brush
    camera: Camera
    rng: np.random.Generator
    left: float
    right: float
    sides: list[Side]
    stop: float
    foliage: Colour
    drawings: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    counts: dict[Kind, int] = field(default_factory=dict)

    def chance(self, probability: float) -> bool:
        """Toss a coin."""
        return bool(self.rng.uniform() < probability)

    def some_side(self) -> Side:
        """Draw a side of the street."""
        return self.sides[self.rng.integers(2)]

    def instance(self, kind: Kind) -> Brush:
        """Return the brush of a new instance of a kind."""
        self.counts[kind] = self.counts.get(kind, -1) + 1
        return self.brush.of_kind(kind, self.counts[kind])

    def box(self, x: float, z: float, half_width: float, height: float) -> Box:
        """Image box of something `half_width` metres to either side of X = x and `height` metres high."""
        corners = self.camera.project(np.array([[x - half_width, height, z], [x + half_width, 0.0, z]]))
        return float(corners[0, 0]), float(corners[0, 1]), float(corners[1, 0]), float(corners[1, 1])

    def crowding(self, box: Box) -> float:
        """Share of a box that others have taken or that is outside the picture; may exceed 1."""
        height, width = self.brush.canvas.shape
        area = (box[2] - box[0]) * (box[3] - box[1])
        hidden = 1.5 * (area - overlap(box, (0.0, 0.0, float(width), float(height))))
        return (hidden + sum(overlap(box, other) for other in self.boxes)) / area

    def place(self, xs: Range, zs: Range, half_width: float, height: float) -> tuple[float, float] | None:
        """Take the least crowded of some random places (X, Z); None if even that one is crowded."""
        places = [(float(self.rng.uniform(*xs)), float(self.rng.uniform(*zs))) for _ in range(TRIES)]
        boxes = [self.box(x, z, half_width, height) for x, z in places]
        crowding = [self.crowding(box) for box in boxes]
        best = int(np.argmin(crowding))
        if crowding[best] > MOST_CROWDED:
            return None
        self.boxes.append(boxes[best])
        return places[best]

    def stand(self, place: tuple[float, float], figures: list[tuple[Brush, Figure]], shadow: float) -> None:
        """Schedule figures at one place, facing the camera, with a shadow `shadow` metres to either side."""
        x, z = place
        frame = self.camera.facing(x, z, flip=self.chance(0.5))
        own = np.random.default_rng(int(self.rng.integers(1 << 31)))

        def paint() -> None:
            self.cast_shadow(x, z, shadow, 0.25)
            for brush, figure in figures:
                figure(brush.in_frame(frame), own)

        self.drawings.append((-z, paint))

    def cast_shadow(self, x: float, z: float, half_width: float, half_depth: float) -> None:
        """Darken the ground under something."""
        around = CIRCLE * (half_width, half_depth) + (x, z)
        self.brush.canvas.darken(self.camera.ground()(around), 0.6)


def overlap(first: Box, second: Box) -> float:
    """Area that two boxes (x0, y0, x1, y1) share."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(0.0, width) * max(0.0, height)


def add_furniture(cast: Cast) -> None:
    """Place traffic lights, signs, lamps and litter bins along the curbs."""
    pole = cast.brush.of_kind(Kind.POLE)
    posts: tuple[tuple[float, Figure, float, float], ...] = (
        (0.45, traffic_light, 0.42, 4.8),
        (0.5, traffic_sign, 0.6, 3.4),
        (0.5, street_lamp, 0.3, 6.0),
    )
    for side in cast.sides:
        ends = sorted((side.curb + side.sign * 0.2, side.curb + side.sign * 0.6))
        for probability, figure, half_width, height in posts:
            if cast.chance(probability):
                place = cast.place((ends[0], ends[1]), (6.0, 10.5), half_width, height)
                if place is not None:
                    cast.stand(place, [(pole, figure)], 0.3)
        if cast.chance(0.12):
            place = cast.place(side.walk, (6.0, 10.0), 0.35, 1.0)
            if place is not None:
                cast.stand(place, [(cast.brush.of_kind(Kind.LITTER_BIN), litter_bin)], 0.4)


def add_people(cast: Cast) -> None:
    """Place people on the sidewalks and on the road, and sometimes a dog."""
    groups: list[tuple[int, Range, Range]] = [
        (int(cast.rng.integers(0, 4)), side.walk, (5.5, 11.0)) for side in cast.sides
    ]
    if cast.chance(0.3):
        groups.append((int(cast.rng.integers(1, 4)), (cast.left, cast.right), (6.0, 10.0)))
    for count, xs, zs in groups:
        for _ in range(count):
            place = cast.place(xs, zs, 0.42, 1.85)
            if place is not None:
                cast.stand(place, [(cast.instance(Kind.PERSON), person)], 0.4)
    if cast.chance(0.1):
        place = cast.place(cast.some_side().walk, (5.5, 9.0), 0.6, 0.85)
        if place is not None:
            cast.stand(place, [(cast.brush.of_kind(Kind.DOG), dog)], 0.5)


def add_plants(cast: Cast) -> None:
    """Place trees and bushes beside the sidewalks."""
    for side in cast.sides:
        if cast.chance(0.4):
            place = side.barrier_x - side.sign * 0.4, float(cast.rng.uniform(10.0, 18.0))
            height = float(cast.rng.uniform(4.5, 7.5))
            cast.stand(place, [(cast.brush.of_kind(Kind.TREE), _leafy(tree, cast.foliage, height))], 1.2)
        if cast.chance(0.3):
            beside = cast.place((side.barrier_x - 0.5, side.barrier_x + 0.5), (8.0, 14.0), 1.2, 1.1)
            if beside is not None:
                cast.stand(beside, [(cast.brush.of_kind(Kind.BUSH), _leafy(bush, cast.foliage, 2.0))], 1.2)


def _leafy(draw: Callable[[Brush, np.random.Generator, Colour, float], None], foliage: Colour, size: float) -> Figure:
    return lambda brush, rng: draw(brush, rng, foliage, size)
