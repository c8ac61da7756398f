"""People, two-wheelers, street furniture and trees of the miniature scenes, in metres from the point they stand on."""

import numpy as np
from miniature_canvas import Brush, Colour, mixed, random_paint, scaled
from miniature_kinds import Kind

METAL: tuple[Colour, ...] = ((122.0, 124.0, 126.0), (72.0, 76.0, 78.0), (150.0, 146.0, 138.0), (86.0, 98.0, 88.0))
SIGN_RED: Colour = (200.0, 30.0, 36.0)
SIGN_BLUE: Colour = (28.0, 84.0, 176.0)
SIGN_WHITE: Colour = (240.0, 240.0, 238.0)


def skin(rng: np.random.Generator) -> Colour:
    """Draw a skin colour."""
    return mixed((92.0, 58.0, 42.0), (236.0, 198.0, 168.0), float(rng.uniform()))


def person(brush: Brush, rng: np.random.Generator) -> None:
    """Draw somebody who stands or walks: head, coat, two legs, two arms."""
    coat, trousers, face = random_paint(rng), scaled(random_paint(rng), 0.7), skin(rng)
    stride = float(rng.uniform(0.1, 0.3))
    for side, shade in ((-1, 0.75), (1, 1.0)):
        brush.bar((side * 0.1, 0.9), (side * stride, 0.08), 0.22, scaled(trousers, shade))
        brush.bar((side * stride - 0.05, 0.06), (side * stride + 0.14, 0.06), 0.12, (32.0, 28.0, 28.0))
    swing = float(rng.uniform(0.0, 0.12))
    for side in (-1, 1):
        hand = (side * (0.33 + swing), 0.84)
        brush.bar((side * 0.26, 1.42), hand, 0.15, scaled(coat, 0.8))
        brush.disc(*hand, 0.08, face)
    hem = 0.62 if rng.uniform() < 0.3 else 0.82
    brush.polygon([(-0.27, hem), (-0.27, 1.44), (-0.12, 1.52), (0.12, 1.52), (0.27, 1.44), (0.27, hem)], coat)
    brush.disc(0.0, 1.66, 0.17, face)
    hair = scaled(random_paint(rng), 0.5)
    brush.polygon([(-0.17, 1.66), (-0.15, 1.8), (0.0, 1.86), (0.15, 1.8), (0.17, 1.66), (0.0, 1.74)], hair)
    if rng.uniform() < 0.35:
        brush.box(0.27, 0.55, 0.5, 0.86, random_paint(rng))


def bicycle(brush: Brush, rng: np.random.Generator) -> None:
    """Draw a bicycle from the side: two large thin wheels, diamond frame; wheels count as filled."""
    frame_colour = random_paint(rng)
    for u in (-0.56, 0.56):
        brush.disc(u, 0.38, 0.4, (168.0, 170.0, 172.0), alpha=0.35)
        brush.ring(u, 0.38, 0.37, 0.1, (24.0, 24.0, 26.0))
    rear, front, crank, seat, head = (-0.56, 0.38), (0.56, 0.38), (-0.06, 0.34), (-0.2, 0.86), (0.42, 0.88)
    for start, end in ((rear, crank), (rear, seat), (crank, seat), (crank, head), (seat, head), (head, front)):
        brush.bar(start, end, 0.11, frame_colour)
    brush.bar(head, (0.4, 1.06), 0.09, (40.0, 40.0, 42.0))
    brush.bar((0.3, 1.06), (0.54, 1.08), 0.1, (40.0, 40.0, 42.0))
    brush.bar((-0.36, 0.95), (-0.08, 0.95), 0.12, (30.0, 28.0, 28.0))


def motorcycle(brush: Brush, rng: np.random.Generator) -> None:
    """Draw a motorcycle from the side: small fat wheels, a solid body with tank, seat and fairing."""
    body, dark = random_paint(rng), (30.0, 30.0, 33.0)
    for u in (-0.75, 0.78):
        brush.disc(u, 0.36, 0.38, dark)
        brush.disc(u, 0.36, 0.17, (172.0, 174.0, 178.0))
    brush.polygon([(-0.5, 0.25), (-0.45, 0.7), (0.45, 0.75), (0.5, 0.3)], (70.0, 70.0, 74.0))
    brush.bar((-0.9, 0.3), (0.1, 0.26), 0.13, (186.0, 188.0, 190.0))
    brush.polygon([(-1.1, 0.78), (-1.0, 0.98), (-0.1, 0.86), (0.0, 0.66), (-0.7, 0.6)], dark)
    brush.polygon([(-0.15, 0.62), (-0.1, 0.98), (0.35, 1.08), (0.6, 0.9), (0.7, 0.5), (0.3, 0.42)], body)
    brush.polygon([(0.4, 0.8), (0.5, 1.3), (0.66, 1.26), (0.86, 0.86), (0.72, 0.6)], body)
    brush.bar((0.62, 0.95), (0.8, 0.4), 0.12, (150.0, 150.0, 154.0))
    brush.disc(0.78, 0.98, 0.12, (252.0, 246.0, 210.0))
    brush.box(-1.14, 0.8, -1.0, 0.92, (206.0, 34.0, 30.0))


def rider_on(brush: Brush, rng: np.random.Generator, motor: bool) -> None:
    """Draw somebody in the saddle, bent forward, one leg on the pedal; motorcyclists wear a closed helmet."""
    coat, trousers = random_paint(rng), scaled(random_paint(rng), 0.7)
    if motor:
        hip, shoulder, hand, knee, foot = (-0.3, 0.95), (0.02, 1.5), (0.5, 1.14), (0.16, 0.82), (-0.05, 0.36)
    else:
        hip, shoulder, hand, knee, foot = (-0.22, 1.0), (0.12, 1.52), (0.44, 1.12), (0.16, 0.78), (-0.02, 0.26)
    brush.bar(hip, knee, 0.22, trousers)
    brush.bar(knee, foot, 0.18, trousers)
    brush.bar((foot[0] - 0.06, foot[1]), (foot[0] + 0.16, foot[1]), 0.12, (30.0, 28.0, 28.0))
    brush.bar(hip, shoulder, 0.38, coat)
    brush.bar(shoulder, hand, 0.15, scaled(coat, 0.8))
    u, v = shoulder[0] + 0.12, shoulder[1] + 0.26
    helmet = random_paint(rng)
    if motor:
        brush.disc(u, v, 0.21, helmet)
        brush.box(u + 0.02, v - 0.08, u + 0.22, v + 0.06, (24.0, 26.0, 30.0))
    else:
        brush.disc(u, v, 0.16, skin(rng))
        brush.polygon([(u - 0.19, v + 0.02), (u - 0.1, v + 0.2), (u + 0.1, v + 0.2), (u + 0.2, v + 0.04)], helmet)


def pole(brush: Brush, rng: np.random.Generator, height: float, width: float = 0.3) -> Colour:
    """Draw a pole with a lit side and a foot; returns its colour."""
    metal = METAL[rng.integers(len(METAL))]
    brush.box(-width / 2, 0.0, width / 2, height, metal)
    brush.box(-width / 2, 0.0, -width / 6, height, scaled(metal, 1.3))
    brush.box(width / 5, 0.0, width / 2, height, scaled(metal, 0.65))
    brush.box(-width * 0.8, 0.0, width * 0.8, 0.35, scaled(metal, 0.8))
    return metal


def street_lamp(brush: Brush, rng: np.random.Generator) -> None:
    """Draw a street lamp: a tall pole with an arm."""
    height, reach = float(rng.uniform(5.0, 7.0)), float(rng.uniform(1.0, 1.8))
    metal = pole(brush, rng, height)
    brush.bar((0.0, height - 0.1), (reach, height + 0.2), 0.22, metal)
    near, far = reach * 0.7, reach * 1.3
    lamp = [(near, height), (near, height + 0.35), (far, height + 0.4), (far, height + 0.05)]
    brush.of_kind(Kind.STREET_LAMP).polygon(lamp, (228.0, 224.0, 200.0))


def traffic_light(brush: Brush, rng: np.random.Generator) -> None:
    """Draw a traffic light on its pole; one of its three lamps burns."""
    height, lit = float(rng.uniform(2.5, 3.3)), rng.integers(3)
    pole(brush, rng, height + 0.2)
    light = brush.of_kind(Kind.TRAFFIC_LIGHT)
    light.box(-0.38, height, 0.38, height + 1.7, (18.0, 20.0, 20.0))
    light.box(-0.3, height + 0.08, 0.3, height + 1.62, (44.0, 46.0, 42.0))
    colours = ((255.0, 56.0, 42.0), (255.0, 190.0, 40.0), (48.0, 240.0, 130.0))
    for index, colour in enumerate(colours):
        v = height + 1.38 - 0.53 * index
        light.disc(0.0, v, 0.22, colour if index == lit else scaled(colour, 0.28))


def traffic_sign(brush: Brush, rng: np.random.Generator) -> None:
    """Draw one or two traffic signs on a pole: round, triangular, square, octagonal or diamond."""
    height = float(rng.uniform(2.1, 2.7))
    pole(brush, rng, height + 0.5, 0.26)
    sign = brush.of_kind(Kind.TRAFFIC_SIGN)
    _sign_face(sign, int(rng.integers(5)), height + 0.45)
    if rng.uniform() < 0.35:
        _sign_face(sign, int(rng.integers(5)), height - 0.6)


def _sign_face(brush: Brush, shape: int, v: float, radius: float = 0.52) -> None:
    if shape == 0:
        brush.disc(0, v, radius, SIGN_RED)
        brush.disc(0, v, radius * 0.68, SIGN_WHITE)
        brush.box(-0.1, v - 0.2, 0.1, v + 0.2, (30.0, 30.0, 30.0))
    elif shape == 1:
        brush.polygon([(-0.6, v - 0.45), (0.0, v + 0.6), (0.6, v - 0.45)], SIGN_RED)
        brush.polygon([(-0.33, v - 0.3), (0.0, v + 0.3), (0.33, v - 0.3)], SIGN_WHITE)
    elif shape == 2:
        brush.box(-radius, v - radius, radius, v + radius, SIGN_WHITE)
        brush.box(-radius * 0.86, v - radius * 0.86, radius * 0.86, v + radius * 0.86, SIGN_BLUE)
        brush.polygon([(-0.28, v - 0.25), (0.0, v + 0.32), (0.28, v - 0.25)], SIGN_WHITE)
    elif shape == 3:
        angle = np.arange(8) * np.pi / 4 + np.pi / 8
        for size, colour in ((radius * 1.1, SIGN_WHITE), (radius * 0.98, SIGN_RED)):
            brush.polygon(np.stack([size * np.cos(angle), v + size * np.sin(angle)], axis=1), colour)
        brush.box(-0.35, v - 0.1, 0.35, v + 0.1, SIGN_WHITE)
    else:
        for size, colour in ((0.66, SIGN_WHITE), (0.52, (246.0, 196.0, 30.0))):
            brush.polygon([(-size, v), (0.0, v + size), (size, v), (0.0, v - size)], colour)


def tree(brush: Brush, rng: np.random.Generator, foliage: Colour, height: float) -> None:
    """Draw a tree: trunk and a crown of overlapping leaf clumps, dark below and light above."""
    trunk = mixed((72.0, 54.0, 42.0), (120.0, 104.0, 88.0), float(rng.uniform()))
    brush.polygon([(-0.22, 0.0), (-0.13, height * 0.6), (0.13, height * 0.6), (0.22, 0.0)], trunk)
    crown, middle = height * 0.3, height * 0.7
    clumps = rng.normal(0.0, 0.42, (26, 2)) * (crown * 1.05, crown)
    for u, v in clumps[np.argsort(clumps[:, 1])]:
        light = 0.72 + 0.34 * np.clip(0.5 + v / (2.0 * crown), 0.0, 1.0) + rng.uniform(-0.08, 0.08)
        brush.disc(u, middle + v, crown * rng.uniform(0.26, 0.42), scaled(foliage, float(light)))


def bush(brush: Brush, rng: np.random.Generator, foliage: Colour, width: float) -> None:
    """Draw a low bush of leaf clumps."""
    for u in np.linspace(-width / 2, width / 2, 7):
        radius = float(rng.uniform(0.35, 0.6))
        brush.ellipse(u, radius * 0.75, radius, radius, scaled(foliage, float(rng.uniform(0.7, 1.05))))


def litter_bin(brush: Brush, rng: np.random.Generator) -> None:
    """Draw a litter bin."""
    colour = random_paint(rng)
    brush.polygon([(-0.28, 0.0), (-0.34, 0.95), (0.34, 0.95), (0.28, 0.0)], colour)
    brush.box(-0.38, 0.9, 0.38, 1.05, scaled(colour, 0.6))


def dog(brush: Brush, rng: np.random.Generator) -> None:
    """Draw a dog from the side."""
    coat = mixed((60.0, 44.0, 34.0), (210.0, 176.0, 130.0), float(rng.uniform()))
    for u in (-0.32, -0.22, 0.2, 0.3):
        brush.bar((u, 0.35), (u, 0.0), 0.1, scaled(coat, 0.8))
    brush.ellipse(0.0, 0.45, 0.42, 0.17, coat)
    brush.disc(0.42, 0.66, 0.16, coat)
    brush.bar((-0.38, 0.5), (-0.6, 0.74), 0.08, coat)
