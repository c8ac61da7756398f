"""Places cars, lorries, buses, trams and two-wheelers in a miniature scene."""

from collections.abc import Callable

import numpy as np
from miniature_canvas import Brush
from miniature_cast import Cast
from miniature_figures import bicycle, motorcycle, rider_on
from miniature_kinds import Kind
from miniature_sides import TRACK_WIDTH
from miniature_vehicles import (
    Livery,
    bus_end,
    bus_side,
    car_end,
    car_side,
    random_livery,
    train_end,
    train_side,
    truck_end,
    truck_side,
)

SideView = Callable[[Brush, Livery, float], None]
EndView = Callable[[Brush, Livery, bool], None]

MOTORS = (Kind.CAR, Kind.TRUCK, Kind.BUS)
SIDE_VIEWS: dict[Kind, tuple[SideView, float]] = {  # and the length in metres
    Kind.CAR: (car_side, 4.3),
    Kind.TRUCK: (truck_side, 7.5),
    Kind.BUS: (bus_side, 10.0),
}
END_VIEWS: dict[Kind, tuple[EndView, float]] = {  # and half the width in metres
    Kind.CAR: (car_end, 0.92),
    Kind.TRUCK: (truck_end, 1.3),
    Kind.BUS: (bus_end, 1.28),
}
HEIGHTS = {Kind.CAR: 1.5, Kind.TRUCK: 3.6, Kind.BUS: 3.15, Kind.TRAIN: 3.5}
CABIN_LEAN = 0.32
TRAIN_HALF_WIDTH = 1.25


def add_traffic(cast: Cast) -> None:
    """Place everything with wheels, the large things first."""
    _trains(cast)
    if cast.chance(0.3):
        _vehicle_across(cast, MOTORS[cast.rng.choice(3, p=[0.3, 0.35, 0.35])])
    for lane, probability in ((-1, 0.75), (1, 0.65)):
        if cast.chance(probability):
            _lane(cast, lane)
    _parked(cast)
    _two_wheelers(cast)


def _trains(cast: Cast) -> None:
    for side in cast.sides:
        if side.tracks and cast.chance(0.85):
            _train_along(cast, side.edge + side.sign * TRACK_WIDTH / 2.0)
    if cast.chance(0.1):
        _train_across(cast)


def _train_along(cast: Cast, x: float) -> None:
    rng = cast.rng
    z, length = float(rng.uniform(8.5, 12.5)), float(rng.uniform(20.0, 34.0))
    livery, brush = random_livery(rng), cast.instance(Kind.TRAIN)
    cast.boxes.append(cast.box(x, z, TRAIN_HALF_WIDTH, HEIGHTS[Kind.TRAIN]))
    flank = cast.camera.receding(x - np.sign(x) * TRAIN_HALF_WIDTH, z, length)

    def paint() -> None:
        train_side(brush.in_frame(flank, 0.85), livery, length)
        train_end(brush.in_frame(cast.camera.facing(x, z)), livery)

    cast.drawings.append((-z, paint))


def _train_across(cast: Cast) -> None:
    rng = cast.rng
    z, length = float(rng.uniform(12.0, 16.0)), float(rng.uniform(22.0, 30.0))
    x, flip = float(rng.uniform(-8.0, 8.0)), cast.chance(0.5)
    livery, brush = random_livery(rng), cast.instance(Kind.TRAIN)
    cast.boxes.append(cast.box(x, z, length / 2.0, HEIGHTS[Kind.TRAIN]))
    frame = cast.camera.facing(x + (length if flip else -length) / 2.0, z, flip)

    def paint() -> None:
        ground = cast.brush.of_kind(Kind.RAIL_TRACK).in_frame(cast.camera.ground())
        ground.box(-60.0, z - 0.5, 60.0, z + 2.5, (104.0, 94.0, 86.0))
        ground.box(-60.0, z - 0.1, 60.0, z + 0.1, (190.0, 190.0, 194.0))
        train_side(brush.in_frame(frame), livery, length)

    cast.drawings.append((-z, paint))


def _vehicle_across(cast: Cast, kind: Kind) -> None:
    # A vehicle that crosses the street, seen from the side.
    draw, length = SIDE_VIEWS[kind]
    place = cast.place((-7.0, 7.0), (9.0, 13.0), length / 2.0, HEIGHTS[kind])
    if place is None:
        return
    x, z = place
    livery, brush, flip = random_livery(cast.rng), cast.instance(kind), cast.chance(0.5)
    frame = cast.camera.facing(x + (length if flip else -length) / 2.0, z, flip)

    def paint() -> None:
        cast.cast_shadow(x, z, length * 0.52, 0.5)
        draw(brush.in_frame(frame), livery, length)

    cast.drawings.append((-z, paint))


def _lane(cast: Cast, lane: int) -> None:
    # One or two vehicles in the oncoming lane (-1) or in our own (+1).
    rng = cast.rng
    middle, quarter = (cast.left + cast.right) / 2.0, (cast.right - cast.left) / 4.0
    z = float(rng.uniform(6.5, 10.5))
    for _ in range(int(rng.integers(1, 3))):
        kind = MOTORS[rng.choice(3, p=[0.5, 0.25, 0.25])]
        if kind != Kind.CAR:
            z += 1.5
        x = middle + lane * quarter + float(rng.uniform(-0.3, 0.3))
        if z > cast.stop - 3.0:
            return
        if cast.crowding(cast.box(x, z, 0.9, 1.5)) < 0.5:
            _vehicle_along(cast, kind, x, z, rear=lane > 0)
        z += SIDE_VIEWS[kind][1] + float(rng.uniform(2.5, 6.0))


def _parked(cast: Cast) -> None:
    for side in cast.sides:
        if not side.parking:
            continue
        for z in np.arange(float(cast.rng.uniform(6.0, 8.0)), min(24.0, cast.stop - 5.0), 5.4):
            if cast.chance(0.75):
                _vehicle_along(cast, Kind.CAR, side.edge + side.sign * 1.1, float(z), rear=side.sign > 0)


def _vehicle_along(cast: Cast, kind: Kind, x: float, z: float, rear: bool) -> None:
    # A vehicle that stands along the street: the flank that can be seen first, then the end that faces the camera.
    draw_side, length = SIDE_VIEWS[kind]
    draw_end, half_width = END_VIEWS[kind]
    livery, brush = random_livery(cast.rng), cast.instance(kind)
    cast.boxes.append(cast.box(x, z, half_width, HEIGHTS[kind]))
    inward = -float(np.sign(x))
    lean = -inward * CABIN_LEAN if kind == Kind.CAR else 0.0
    flank = cast.camera.receding(x + inward * half_width, z, 0.0 if rear else length, lean)

    def paint() -> None:
        cast.cast_shadow(x, z + length / 2.0, half_width * 1.25, length / 2.0 + 0.4)
        if abs(x) > half_width:
            draw_side(brush.in_frame(flank, 0.8), livery, length)
        draw_end(brush.in_frame(cast.camera.facing(x, z)), livery, rear)

    cast.drawings.append((-z, paint))


def _two_wheelers(cast: Cast) -> None:
    for kind in (Kind.BICYCLE, Kind.MOTORCYCLE):
        if cast.chance(0.42):
            place = cast.place((cast.left, cast.right), (5.5, 9.0), 1.15, 1.95)
            if place is not None:
                _two_wheeler(cast, kind, place, ridden=True)
        if cast.chance(0.22):
            place = cast.place(cast.some_side().walk, (6.0, 10.0), 1.15, 1.2)
            if place is not None:
                _two_wheeler(cast, kind, place, ridden=False)


def _two_wheeler(cast: Cast, kind: Kind, place: tuple[float, float], ridden: bool) -> None:
    motor = kind == Kind.MOTORCYCLE
    figures = [(cast.instance(kind), motorcycle if motor else bicycle)]
    if ridden:
        figures.append((cast.instance(Kind.RIDER), lambda brush, rng: rider_on(brush, rng, motor)))
    cast.stand(place, figures, 1.1)
