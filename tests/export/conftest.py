"""Small models with random weights whose labels vary."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mtaclip.engine import setup_cfg
from mtaclip.export.program import OPEN_SINCE
from mtaclip.modeling.build import build_model
from mtaclip.predictor import Predictor

TINY = [
    "MODEL.MTACLIP.PIXEL_DECODER.LAYERS",
    "1",
    "MODEL.MTACLIP.DECODER.LAYERS",
    "1",
    "MODEL.MTACLIP.DECODER.NUM_QUERIES",
    "8",
    "TEST.QUERY_EPS",
    "0.0",
    "SOLVER.CHANNELS_LAST",
    "False",
]


@pytest.fixture(scope="session")
def make_predictor(tmp_path_factory, config_path) -> Callable[..., Predictor]:
    """A function from a method, "mtaclip" or "mask2former", an image tower, "resnet", "vit" or "swin", and options."""
    folder = tmp_path_factory.mktemp("export")
    vit = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 64, "layers": 4, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
    }
    (folder / "vit.json").write_text(json.dumps(vit))
    swin = {"EMBED_DIM": 12, "DEPTHS": (1, 1, 1, 1), "HEADS": (1, 2, 3, 4), "WINDOW": 4}
    towers = {
        "resnet": [],
        "vit": ["MODEL.CLIP.ARCH", str(folder / "vit.json"), "MODEL.CLIP.VIT_TAPS", "(0, 1, 2, 3)"],
        "swin": ["MODEL.BACKBONE.NAME", "build_swin_backbone"]
        + [text for key, value in swin.items() for text in (f"MODEL.SWIN.{key}", str(value))],
    }

    def make(method: str = "mtaclip", tower: str = "resnet", *opts: str) -> Predictor:
        weights = folder / f"{method}_{tower}.pth"
        options = [*TINY, *towers[tower], "MODEL.WEIGHTS", str(weights), *opts]
        cfg = setup_cfg(config_path(f"miniature/{method}_tiny.yaml"), options, device="cpu")
        if not weights.is_file():
            torch.manual_seed(0)
            save_weights(build_model(cfg), weights)
        return Predictor(cfg)

    return make


@pytest.fixture(scope="session")
def open_sizes() -> None:
    """Skips what traces for images of all sizes."""
    if torch.__version__ < OPEN_SINCE:
        pytest.skip(f"PyTorch traces pools for open sizes since {OPEN_SINCE}")


def save_weights(model: torch.nn.Module, file: Path) -> None:
    """Random weights whose queries differ enough that several classes win somewhere."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*model.decoder.class_head.parameters(), *model.decoder.mask_head[-1].parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    torch.save({"model": model.state_dict()}, file)
