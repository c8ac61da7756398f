"""What a miniature street scene is made of, and the value each kind has in Cityscapes' and in ADE20K's labels."""

from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """Everything the scenes draw; finer than either dataset's classes."""

    EGO_VEHICLE = 0
    BORDER = 1
    LITTER_BIN = 2
    DOG = 3
    PARKING = 4
    RAIL_TRACK = 5
    ROAD = 6
    SIDEWALK = 7
    BUILDING = 8
    HOUSE = 9
    TOWER = 10
    WALL = 11
    FENCE = 12
    POLE = 13
    STREET_LAMP = 14
    TRAFFIC_LIGHT = 15
    TRAFFIC_SIGN = 16
    TREE = 17
    BUSH = 18
    GRASS = 19
    SOIL = 20
    SKY = 21
    PERSON = 22
    RIDER = 23
    CAR = 24
    TRUCK = 25
    BUS = 26
    TRAIN = 27
    MOTORCYCLE = 28
    BICYCLE = 29


# kind: (Cityscapes label name, ADE20K class name); None where ADE20K's 150 classes have nothing of the sort.
NAMES: dict[Kind, tuple[str, str | None]] = {
    Kind.EGO_VEHICLE: ("ego vehicle", None),
    Kind.BORDER: ("rectification border", None),
    Kind.LITTER_BIN: ("static", "ashcan"),
    Kind.DOG: ("dynamic", "animal"),
    Kind.PARKING: ("parking", "road"),
    Kind.RAIL_TRACK: ("rail track", None),
    Kind.ROAD: ("road", "road"),
    Kind.SIDEWALK: ("sidewalk", "sidewalk"),
    Kind.BUILDING: ("building", "building"),
    Kind.HOUSE: ("building", "house"),
    Kind.TOWER: ("building", "skyscraper"),
    Kind.WALL: ("wall", "wall"),
    Kind.FENCE: ("fence", "fence"),
    Kind.POLE: ("pole", "pole"),
    Kind.STREET_LAMP: ("pole", "streetlight"),
    Kind.TRAFFIC_LIGHT: ("traffic light", "traffic light"),
    Kind.TRAFFIC_SIGN: ("traffic sign", "signboard"),
    Kind.TREE: ("vegetation", "tree"),
    Kind.BUSH: ("vegetation", "plant"),
    Kind.GRASS: ("terrain", "grass"),
    Kind.SOIL: ("terrain", "earth"),
    Kind.SKY: ("sky", "sky"),
    Kind.PERSON: ("person", "person"),
    Kind.RIDER: ("rider", "person"),
    Kind.CAR: ("car", "car"),
    Kind.TRUCK: ("truck", "truck"),
    Kind.BUS: ("bus", "bus"),
    Kind.TRAIN: ("train", None),
    Kind.MOTORCYCLE: ("motorcycle", "minibike"),
    Kind.BICYCLE: ("bicycle", "bicycle"),
}


def cityscapes_table() -> np.ndarray:
    """Raw Cityscapes label id of each kind, uint8 (len(Kind),)."""
    from cityscapesscripts.helpers.labels import name2label

    return np.array([name2label[NAMES[kind][0]].id for kind in Kind], dtype=np.uint8)


def ade20k_table(class_names: list[str]) -> np.ndarray:
    """Value of each kind in ADE20K's annotations, uint8 (len(Kind),): 0 = other, k = class k - 1.

    Args:
        class_names: the 150 class names in train-id order.
    """
    values = []
    for kind in Kind:
        name = NAMES[kind][1]
        values.append(0 if name is None else class_names.index(name) + 1)
    return np.array(values, dtype=np.uint8)
