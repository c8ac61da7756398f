"""Cars, lorries, buses and trams of the miniature scenes, from the side and from the end, in metres.

A side view runs from the tail at u = 0 to the nose at u = length; an end view is centred on u = 0. The ground is v = 0.
"""

from dataclasses import dataclass

import numpy as np
from miniature_canvas import Brush, Colour, mixed, random_paint, scaled

TYRE: Colour = (26.0, 26.0, 28.0)
HUB: Colour = (150.0, 152.0, 156.0)
LAMP_RED: Colour = (206.0, 34.0, 30.0)
LAMP_WHITE: Colour = (246.0, 240.0, 214.0)
WHITE: Colour = (232.0, 232.0, 228.0)


@dataclass(frozen=True)
class Livery:
    """Colours of one vehicle.

    Attributes:
        body: paint.
        second: stripes and doors.
        glass: windows, dark or reflecting the sky.
    """

    body: Colour
    second: Colour
    glass: Colour


def random_livery(rng: np.random.Generator) -> Livery:
    """Draw the colours of a vehicle."""
    glass = mixed((34.0, 42.0, 52.0), (120.0, 150.0, 172.0), float(rng.uniform(0.0, 0.6)))
    return Livery(random_paint(rng), random_paint(rng), glass)


def wheel(brush: Brush, u: float, radius: float) -> None:
    """Draw a wheel that stands on the ground."""
    brush.disc(u, radius, radius, TYRE)
    brush.disc(u, radius, radius * 0.5, HUB)


def car_side(brush: Brush, livery: Livery, length: float = 4.3) -> None:
    """Draw a car from the side: bonnet, sloped cabin, two wheels."""
    outline = [(0, 0.3), (0.02, 0.82), (0.5, 0.98), (1.1, 1.5), (2.75, 1.52), (3.4, 1.0), (4.2, 0.86), (4.3, 0.3)]
    factor = length / 4.3
    brush.polygon([(u * factor, v) for u, v in outline], livery.body)
    rear_glass = [(0.85, 1.0), (1.25, 1.4), (1.95, 1.42), (1.95, 1.0)]
    front_glass = [(2.1, 1.0), (2.1, 1.42), (2.65, 1.42), (3.15, 1.0)]
    for pane in (rear_glass, front_glass):
        brush.polygon([(u * factor, v) for u, v in pane], livery.glass)
    brush.bar((2.02 * factor, 0.4), (2.02 * factor, 1.0), 0.06, scaled(livery.body, 0.6))
    brush.box(0, 0.3, length, 0.42, scaled(livery.body, 0.5))
    brush.box(0, 0.7, 0.22, 0.86, LAMP_RED)
    brush.box(length - 0.3, 0.68, length - 0.02, 0.82, LAMP_WHITE)
    wheel(brush, 0.85 * factor, 0.36)
    wheel(brush, 3.45 * factor, 0.36)


def car_end(brush: Brush, livery: Livery, rear: bool) -> None:
    """Draw a car from behind or from the front: tapered cabin, two lamps, plate."""
    for side in (-1, 1):
        brush.box(side * 0.88, 0.0, side * 0.6, 0.4, TYRE)
    brush.polygon([(-0.92, 0.26), (-0.95, 0.84), (-0.8, 1.02), (0.8, 1.02), (0.95, 0.84), (0.92, 0.26)], livery.body)
    brush.polygon([(-0.8, 1.0), (-0.6, 1.52), (0.6, 1.52), (0.8, 1.0)], scaled(livery.body, 0.85))
    brush.polygon([(-0.68, 1.02), (-0.53, 1.43), (0.53, 1.43), (0.68, 1.02)], livery.glass)
    brush.box(-0.9, 0.26, 0.9, 0.4, scaled(livery.body, 0.5))
    lamp = LAMP_RED if rear else LAMP_WHITE
    for side in (-1, 1):
        brush.box(side * 0.88, 0.7, side * 0.6, 0.88, lamp)
    if rear:
        brush.box(-0.28, 0.5, 0.28, 0.64, WHITE)
    else:
        brush.box(-0.45, 0.44, 0.45, 0.66, scaled(livery.body, 0.35))


def truck_side(brush: Brush, livery: Livery, length: float = 7.5) -> None:
    """Draw a lorry from the side: windowless cargo box, gap, cab."""
    cargo_end = length - 2.2
    brush.box(0, 0.5, length, 0.95, (48.0, 48.0, 50.0))
    brush.box(0, 0.9, cargo_end, 3.6, livery.body)
    brush.box(0, 3.42, cargo_end, 3.6, scaled(livery.body, 0.6))
    brush.box(0, 0.9, cargo_end, 1.05, scaled(livery.body, 0.6))
    for rib in np.arange(0.6, cargo_end - 0.2, 0.8):
        brush.bar((rib, 1.05), (rib, 3.42), 0.09, scaled(livery.body, 0.78))
    brush.polygon([(0.8, 1.5), (1.8, 3.0), (2.9, 3.0), (1.9, 1.5)], livery.second)
    cab = cargo_end + 0.25
    nose = [(cab, 0.5), (cab, 2.75), (length - 0.4, 2.75), (length - 0.05, 1.7), (length, 0.5)]
    brush.polygon(nose, mixed(livery.second, livery.body, 0.3))
    brush.polygon([(cab + 0.5, 1.7), (cab + 0.5, 2.5), (length - 0.5, 2.5), (length - 0.22, 1.7)], livery.glass)
    brush.box(length - 0.2, 0.6, length, 0.85, LAMP_WHITE)
    for position in (0.9, 2.0, length - 1.2):
        wheel(brush, position, 0.5)


def truck_end(brush: Brush, livery: Livery, rear: bool) -> None:
    """Draw a lorry from behind (two cargo doors, chevrons) or from the front (cab below the cargo box)."""
    for side in (-1, 1):
        brush.box(side * 1.2, 0.0, side * 0.75, 0.9, TYRE)
    brush.box(-1.3, 0.85, 1.3, 3.6, livery.body)
    frame_colour = scaled(livery.body, 0.55)
    if not rear:
        brush.box(-1.2, 0.4, 1.2, 2.75, mixed(livery.second, livery.body, 0.3))
        brush.polygon([(-1.08, 1.65), (-1.0, 2.5), (1.0, 2.5), (1.08, 1.65)], livery.glass)
        brush.box(-0.7, 0.8, 0.7, 1.45, (40.0, 40.0, 44.0))
        for side in (-1, 1):
            brush.box(side * 1.15, 0.5, side * 0.82, 0.75, LAMP_WHITE)
        return
    for u in (-1.22, 0.0, 1.22):
        brush.bar((u, 0.85), (u, 3.6), 0.14, frame_colour)
    for v in (0.95, 3.52):
        brush.bar((-1.3, v), (1.3, v), 0.16, frame_colour)
    for u in (-0.45, 0.45):
        brush.bar((u, 1.0), (u, 3.4), 0.06, (225.0, 225.0, 225.0))
    brush.box(-1.3, 0.45, 1.3, 0.85, (236.0, 232.0, 220.0))
    for u in np.arange(-1.2, 1.2, 0.5):
        brush.polygon([(u, 0.45), (u + 0.2, 0.85), (u + 0.42, 0.85), (u + 0.22, 0.45)], LAMP_RED)


def bus_side(brush: Brush, livery: Livery, length: float = 10.0) -> None:
    """Draw a bus from the side: a band of windows from end to end, doors, two wheels."""
    brush.box(0, 0.35, length, 3.15, livery.body)
    brush.box(0.15, 1.5, length - 0.1, 2.6, livery.glass)
    for pillar in np.arange(1.5, length - 0.5, 1.5):
        brush.bar((pillar, 1.5), (pillar, 2.6), 0.14, livery.body)
    brush.box(0, 0.9, length, 1.2, livery.second)
    for door in (length - 1.9, length * 0.45):
        brush.box(door, 0.4, door + 1.2, 2.6, scaled(livery.glass, 0.8))
        brush.bar((door + 0.6, 0.4), (door + 0.6, 2.6), 0.1, livery.body)
    brush.box(0, 2.95, length, 3.15, scaled(livery.body, 0.75))
    wheel(brush, 2.0, 0.5)
    wheel(brush, length - 2.6, 0.5)


def bus_end(brush: Brush, livery: Livery, rear: bool) -> None:
    """Draw a bus from the end: wide windscreen, lit destination sign."""
    for side in (-1, 1):
        brush.box(side * 1.15, 0.0, side * 0.8, 0.5, TYRE)
    brush.polygon([(-1.28, 0.35), (-1.28, 2.95), (-1.1, 3.15), (1.1, 3.15), (1.28, 2.95), (1.28, 0.35)], livery.body)
    bottom = 1.75 if rear else 1.15
    brush.box(-1.14, bottom, 1.14, 2.5, livery.glass)
    if not rear:
        brush.bar((0, bottom), (0, 2.5), 0.06, scaled(livery.glass, 0.6))
    brush.box(-0.95, 2.6, 0.95, 3.0, (22.0, 20.0, 18.0))
    for u in np.arange(-0.75, 0.6, 0.36):
        brush.box(u, 2.7, u + 0.24, 2.9, (255.0, 178.0, 48.0))
    brush.box(-1.28, 0.9, 1.28, 1.08, livery.second)
    lamp = LAMP_RED if rear else LAMP_WHITE
    for side in (-1, 1):
        brush.box(side * 1.2, 0.5, side * 0.88, 0.78, lamp)


def train_side(brush: Brush, livery: Livery, length: float) -> None:
    """Draw a tram from the side: long, low skirt without wheels, bellows, double doors in the second colour."""
    brush.box(0, 0.12, length, 0.7, (46.0, 46.0, 48.0))
    brush.box(0, 0.6, length, 3.4, livery.body)
    brush.box(0, 0.75, length, 1.45, livery.second)
    brush.box(0.3, 1.75, length - 0.3, 2.7, livery.glass)
    brush.box(0, 3.1, length, 3.4, livery.second)
    for start in np.arange(1.2, length - 1.5, 3.3):
        brush.box(start, 0.65, start + 1.3, 2.75, mixed(livery.second, WHITE, 0.35))
        for pane in (0.15, 0.73):
            brush.box(start + pane, 1.3, start + pane + 0.42, 2.55, scaled(livery.glass, 0.8))
    for joint in np.arange(8.0, length - 2.0, 8.0):
        brush.box(joint, 0.3, joint + 0.55, 3.35, (58.0, 58.0, 60.0))
        for fold in (0.12, 0.36):
            brush.bar((joint + fold, 0.4), (joint + fold, 3.3), 0.08, (28.0, 28.0, 30.0))
    for unit in np.arange(2.0, length - 2.0, 4.0):
        brush.box(unit, 3.4, unit + 2.2, 3.72, (120.0, 120.0, 122.0))


def train_end(brush: Brush, livery: Livery) -> None:
    """Draw a tram's nose: tapered, with a deep windscreen, a single lamp on top and a pointed bib."""
    brush.box(-1.0, 0.1, 1.0, 0.7, (46.0, 46.0, 48.0))
    outline = [(-1.2, 0.45), (-1.34, 1.5), (-1.02, 3.3), (-0.7, 3.5), (0.7, 3.5), (1.02, 3.3), (1.34, 1.5), (1.2, 0.45)]
    brush.polygon(outline, livery.body)
    brush.polygon([(-1.3, 1.5), (0.0, 0.45), (1.3, 1.5), (1.25, 1.75), (-1.25, 1.75)], livery.second)
    brush.polygon([(-1.12, 1.75), (-0.85, 2.95), (0.85, 2.95), (1.12, 1.75)], livery.glass)
    brush.box(-0.7, 3.0, 0.7, 3.25, (24.0, 22.0, 20.0))
    brush.disc(0.0, 3.38, 0.17, LAMP_WHITE)
    for side in (-1, 1):
        brush.disc(side * 0.8, 0.85, 0.16, LAMP_WHITE)
    pantograph = (70.0, 70.0, 72.0)
    brush.bar((-0.6, 3.5), (0.3, 4.1), 0.12, pantograph)
    brush.bar((0.3, 4.1), (-0.4, 4.6), 0.12, pantograph)
    brush.bar((-1.0, 4.6), (1.0, 4.6), 0.14, pantograph)
