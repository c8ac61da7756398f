"""Golden tensors computed with the authors' code: `tests/oracles/data/`, or the folder of MTACLIP_ORACLE_DIR.

A test that asks for `head_file`, `loss_file`, `text_file`, `backbone_file` or `e2e_file` runs once for every
`oracle_<kind>*.pt` in the folder; a kind without a file is reported as skipped. Sizes come from the files alone.
"""

import os
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec

from mtaclip.checkpoint.loading import load_state
from mtaclip.checkpoint.released import convert_released
from mtaclip.modeling.mask_text_decoder import MaskTextDecoder
from mtaclip.modeling.pixel_decoder import PixelDecoder

FOLDER = Path(os.environ.get("MTACLIP_ORACLE_DIR", Path(__file__).parent / "data"))
KINDS = ("head", "loss", "text", "backbone", "e2e")


def pytest_generate_tests(metafunc):
    for kind in KINDS:
        name = f"{kind}_file"
        if name not in metafunc.fixturenames:
            continue
        paths = sorted(FOLDER.glob(f"oracle_{kind}*.pt"))
        params = [pytest.param(p, id=p.stem) for p in paths] or [
            pytest.param(None, id=kind, marks=pytest.mark.skip(reason=f"no oracle_{kind}*.pt in {FOLDER}"))
        ]
        metafunc.parametrize(name, params)


@pytest.fixture
def oracle_folder() -> Path:
    return FOLDER


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Head(torch.nn.Module):
    """Pixel decoder and decoder of a golden head, with the file's sizes and weights."""

    def __init__(self, config: dict, state: dict) -> None:
        super().__init__()
        shapes = {f"res{i + 2}": ShapeSpec(channels=c, stride=4 * 2**i) for i, c in enumerate(config["in_channels"])}
        self.pixel_decoder = PixelDecoder(
            shapes,
            dim=config["feat_channels"],
            layers=config["enc_layers"],
            heads=config["num_heads"],
            points=config["num_points_deform"],
            ffn_dim=config["enc_ffn"],
            norm_groups=config["gn_groups"],
        )
        self.decoder = MaskTextDecoder(
            num_classes=config["num_classes"],
            num_queries=config["num_queries"],
            dim=config["feat_channels"],
            layers=config["dec_layers"],
            heads=config["num_heads"],
            ffn_dim=config["dec_ffn"],
            num_contexts=config["n_contexts"],
            text_dim=config["text_dim"],
            predict_initial=True,
        )
        conversion = convert_released({f"decode_head.{k}": v for k, v in state.items()})
        self.dropped = conversion.dropped
        load_state(self, conversion.state, "golden head")

    def forward(self, features, text):
        mask_features, memories = self.pixel_decoder({f"res{i + 2}": f for i, f in enumerate(features)})
        return self.decoder(memories, mask_features, text), memories


@pytest.fixture
def load_head():
    """A function from the path of an `oracle_head*.pt` to its content and the model."""

    def load(path: Path) -> tuple[dict, Head]:
        golden = torch.load(path, weights_only=True)
        return golden, Head(golden["config"], golden["state_dict"])

    return load
