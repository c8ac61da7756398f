"""The two sides of a miniature street: strips of ground, what divides them and what stands behind."""

from dataclasses import dataclass, field

import numpy as np
from miniature_canvas import Brush, Camera, Colour, scaled
from miniature_figures import tree
from miniature_kinds import Kind
from miniature_street import Strip, facade, fence, roof, stone_wall

FAR = 75.0
TRACK_WIDTH = 3.2
GAUGE = 1.44
UNPAINTED: Colour = (0.0, 0.0, 0.0)


@dataclass
class Side:
    """One side of the street.

    Attributes:
        sign: -1 = left, +1 = right.
        edge: X of the road's edge.
        tracks: whether a tram line runs beside the road.
        parking: whether there is a parking strip beside the road.
        verge: whether grass or soil divides road and sidewalk.
        strips: ground, from the road outward; their colours are chosen later.
        rails: X of the rails.
        curb: X where the sidewalk begins.
        walk: (smallest, largest) X of the sidewalk.
        barrier: WALL, FENCE, BUSH (a hedge) or None.
        barrier_x: X of the barrier.
        front: X of the houses or trees behind it.
        built: share of built-up ground behind the barrier, 0..1.
    """

    sign: int
    edge: float
    tracks: bool
    parking: bool
    verge: bool
    strips: list[Strip] = field(default_factory=list)
    rails: tuple[float, ...] = ()
    curb: float = 0.0
    walk: tuple[float, float] = (0.0, 0.0)
    barrier: Kind | None = None
    barrier_x: float = 0.0
    front: float = 0.0
    built: float = 0.0

    @property
    def outer(self) -> float:
        """X of the outer end of the strips so far."""
        if not self.strips:
            return self.edge
        return self.strips[-1].left if self.sign < 0 else self.strips[-1].right

    def add(self, kind: Kind, width: float) -> None:
        """Add a strip of ground further out."""
        ends = sorted((self.outer, self.outer + self.sign * width))
        self.strips.append(Strip(ends[0], ends[1], kind, UNPAINTED))


def random_side(rng: np.random.Generator, sign: int, edge: float, tracks: bool) -> Side:
    """Draw one side of the street; `edge` is X of the road's edge, `tracks` puts a tram line beside it."""
    parking = not tracks and bool(rng.uniform() < 0.3)
    side = Side(sign, edge, tracks, parking, verge=not parking and bool(rng.uniform() < 0.35))
    if tracks:
        middle = edge + sign * TRACK_WIDTH / 2
        side.rails = (middle - GAUGE / 2, middle + GAUGE / 2)
        side.add(Kind.RAIL_TRACK, TRACK_WIDTH)
    elif parking:
        side.add(Kind.PARKING, 2.2)
    if side.verge:
        side.add(_green(rng), float(rng.uniform(1.0, 2.2)))
    side.curb = side.outer
    side.add(Kind.SIDEWALK, float(rng.uniform(1.8, 2.8)))
    side.walk = (min(side.curb, side.outer), max(side.curb, side.outer))
    side.barrier = (Kind.WALL, Kind.FENCE, Kind.BUSH, None)[rng.choice(4, p=[0.3, 0.3, 0.1, 0.3])]
    if side.barrier is None or rng.uniform() < 0.4:
        side.add(_green(rng), float(rng.uniform(1.0, 4.0)) if rng.uniform() < 0.6 else 0.2)
    side.barrier_x = side.outer
    side.front = side.outer + sign * float(rng.uniform(0.8, 4.0))
    side.built = float(rng.choice([0.0, 0.6, 1.0], p=[0.25, 0.25, 0.5]))
    side.add(_green(rng), 400.0)
    return side


def _green(rng: np.random.Generator) -> Kind:
    return Kind.GRASS if rng.uniform() < 0.68 else Kind.SOIL


def paint_side(
    brush: Brush, camera: Camera, rng: np.random.Generator, side: Side, foliage: Colour, stop: float, haze: float
) -> None:
    """Paint what stands beside the street, from far to near.

    Args:
        brush: lit for this side; its frame is replaced.
        camera: the camera.
        rng: source of randomness.
        side: the side.
        foliage: colour of leaves.
        stop: Z where the street ends in a crossing road.
        haze: density of the air.
    """
    far = min(FAR, stop - 1.0)
    while far > 5.0:
        near = max(far - float(rng.uniform(7.0, 13.0)), 1.5)
        here = brush.hazed(far, haze)
        if rng.uniform() < side.built:
            _building(here, camera, rng, side, near, far)
        else:
            for z in sorted(rng.uniform(near, far, 4), reverse=True):
                x = side.front + side.sign * float(rng.uniform(0.0, 5.0))
                frame = camera.facing(x, max(float(z), 6.0))
                tree(here.of_kind(Kind.TREE).in_frame(frame), rng, foliage, float(rng.uniform(4.5, 8.5)))
        far = near
    if side.barrier is not None:
        start = 2.0
        along = brush.of_kind(side.barrier).in_frame(camera.receding(side.barrier_x, start))
        paint_barrier(along, rng, min(FAR, stop - 1.0) - start, foliage)


def _building(brush: Brush, camera: Camera, rng: np.random.Generator, side: Side, near: float, far: float) -> None:
    # The wall at the near end first, then the front along the street.
    kind = (Kind.BUILDING, Kind.HOUSE, Kind.TOWER)[rng.choice(3, p=[0.55, 0.33, 0.12])]
    ranges = {Kind.BUILDING: (7.0, 15.0), Kind.HOUSE: (4.8, 6.5), Kind.TOWER: (14.0, 24.0)}
    height, length, depth = float(rng.uniform(*ranges[kind])), far - near, 8.0
    scale = float(np.clip(camera.focal / max(near, 6.0), 5.0, 26.0))
    brush = brush.of_kind(kind)
    end = brush.in_frame(camera.facing(side.front, near, flip=side.sign < 0), 0.8)
    end.hang(facade(rng, kind, (depth, height), scale), 0.0, depth, height)
    front = brush.in_frame(camera.receding(side.front, near))
    ends = (0.0, length) if side.sign < 0 else (length, 0.0)
    front.hang(facade(rng, kind, (length, height), scale), *ends, height)
    if kind == Kind.HOUSE:
        roof(front, rng, length, height)


def paint_barrier(brush: Brush, rng: np.random.Generator, length: float, foliage: Colour) -> None:
    """Paint a wall, a fence or a hedge, as the brush's kind says, along u = 0 .. `length`."""
    if brush.kind == Kind.WALL:
        height = float(rng.uniform(1.7, 2.6))
        brush.hang(stone_wall(rng, (length, height), 14.0), 0.0, length, height)
    elif brush.kind == Kind.FENCE:
        fence(brush, rng, length, float(rng.uniform(1.5, 2.3)), bool(rng.uniform() < 0.4))
    else:
        height = float(rng.uniform(1.0, 1.7))
        for u in np.arange(length, 0.0, -0.6):
            for v in (0.25, 0.55, 0.85):
                brush.ellipse(u, height * v, 0.55, 0.4, scaled(foliage, float(rng.uniform(0.6, 0.75) + 0.35 * v)))


def paint_junction(brush: Brush, camera: Camera, rng: np.random.Generator, depth: float, foliage: Colour) -> None:
    """Paint what faces the camera where the street ends: houses or trees, often behind a wall or a fence."""
    left, right = -depth * 1.1, depth * 1.1
    built = 0.85 if rng.uniform() < 0.65 else 0.0
    position = left
    while position < right:
        width = float(rng.uniform(8.0, 14.0))
        if rng.uniform() < built:
            _facing_house(brush.in_frame(camera.facing(position, depth + 3.0)), rng, width)
        else:
            for x in rng.uniform(position, position + width, 3):
                frame = camera.facing(float(x), depth + 2.0)
                tree(brush.of_kind(Kind.TREE).in_frame(frame), rng, foliage, float(rng.uniform(4.5, 8.0)))
        position += width
    barrier = (Kind.WALL, Kind.FENCE, None)[rng.choice(3, p=[0.4, 0.4, 0.2])]
    if barrier is not None:
        paint_barrier(brush.of_kind(barrier).in_frame(camera.facing(left, depth)), rng, right - left, foliage)


def _facing_house(brush: Brush, rng: np.random.Generator, width: float) -> None:
    kind = Kind.HOUSE if rng.uniform() < 0.4 else Kind.BUILDING
    height = float(rng.uniform(4.8, 6.5) if kind == Kind.HOUSE else rng.uniform(7.0, 14.0))
    brush = brush.of_kind(kind)
    brush.hang(facade(rng, kind, (width, height), 12.0), 0.0, width, height)
    if kind == Kind.HOUSE:
        roof(brush, rng, width, height)
