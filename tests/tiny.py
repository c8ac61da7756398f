"""Options of the smallest runs of the miniature: images of 64 x 128 pixels, few queries and points."""

SIZES = [
    "INPUT.CROP.SIZE", "(64,128)",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MAX_SIZE_TRAIN", "128",
    "INPUT.MIN_SIZE_TEST", "64",
    "INPUT.MAX_SIZE_TEST", "128",
    "MODEL.MTACLIP.LOSS.NUM_POINTS", "64",
    "MODEL.MTACLIP.DECODER.NUM_QUERIES", "8",
]  # fmt: skip
