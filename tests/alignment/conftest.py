from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mtaclip.alignment import Alignment
from mtaclip.checkpoint import Checkpointer
from mtaclip.engine import setup_cfg
from mtaclip.modeling.build import build_model

TINY = ["MODEL.MTACLIP.DECODER.NUM_QUERIES", "8", "INPUT.MIN_SIZE_TEST", "0"]


@pytest.fixture
def alignment() -> Alignment:
    """Three queries, two classes, two contexts, on an image of 4 x 8 pixels whose left half is road."""
    similarity = np.zeros((2, 3, 3), np.float32)
    similarity[:, 0] = [[0.1, -0.2, 0.0], [0.8, 0.3, 0.2]]  # road behind context 1
    similarity[:, 1] = [[0.0, 0.9, 0.1], [0.4, 0.5, 0.1]]  # sky behind context 0
    similarity[:, 2] = [[-0.5, 0.0, 0.7], [0.2, 0.0, 0.7]]  # none, behind either
    masks = np.zeros((3, 1, 2), np.float32)
    masks[:, 0] = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    labels = np.zeros((4, 8), np.uint8)
    labels[:, 4:] = 1
    owners = labels.astype(np.int16)
    owners[0, 7] = 2
    return Alignment(
        texts=("road", "sky", "none"),
        image=np.full((4, 8, 3), 128, np.uint8),
        probabilities=np.array([[0.9, 0.1], [0.0, 0.8], [0.1, 0.2]], np.float32),
        similarity=similarity,
        masks=masks,
        mask_embeddings=np.eye(3, 4, dtype=np.float32),
        text_embeddings=np.ones((2, 3, 4), np.float32) / 2,
        labels=labels,
        owners=owners,
    )


@pytest.fixture
def make_checkpoint(tmp_path, config_path) -> Callable[..., Path]:
    """A function that writes a checkpoint of a tiny random model, with its config, and returns the file."""

    def write(name: str = "mtaclip_tiny", *opts: str) -> Path:
        cfg = setup_cfg(config_path(f"miniature/{name}.yaml"), [*TINY, *opts], device="cpu")
        torch.manual_seed(0)
        Checkpointer(build_model(cfg), str(tmp_path), config=cfg).save(name, iteration=1)
        return tmp_path / f"{name}.pth"

    return write
