"""The real R50 ADE20K model: its parameters and their optimizer groups against the released ones."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from mtaclip.checkpoint.released import convert_released
from mtaclip.engine import setup_cfg
from mtaclip.engine.optimizer import build_optimizer

CONFIG = Path(__file__).parents[2] / "configs" / "ade20k" / "mtaclip_R50.yaml"


@pytest.fixture
def golden(oracle_folder):
    def read(name: str) -> dict:
        path = oracle_folder / name
        if not path.is_file():
            pytest.skip(f"no {name} in {oracle_folder}")
        return json.loads(path.read_text())

    return read


@pytest.fixture(scope="module")
def cfg():
    return setup_cfg(CONFIG, ["MODEL.CLIP.PRETRAINED", ""], device="cpu")


@pytest.fixture(scope="module")
def model(cfg):
    return build_model(cfg)


def test_parameters_are_the_released_ones_less_the_dead(model, golden):
    released = {key: torch.empty(shape, device="meta") for key, shape in golden("real_r50_keys.json").items()}
    conversion = convert_released(released)
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == {name: tuple(tensor.shape) for name, tensor in conversion.state.items()}
    dead = ("gamma", "backbone.attnpool.", "decode_head.lang_embed.", "decode_head.visual_emb_proj.")
    assert conversion.dropped and all(name.startswith(dead) for name in conversion.dropped)


def test_optimizer_groups_are_the_released_ones_with_the_text_tower_frozen(cfg, model, golden):
    expected = {}
    for key, names in golden("real_r50_param_groups.json").items():
        lr, decay = (float(x) for x in key.strip("()").split(","))
        for ours in convert_released(dict.fromkeys(names, torch.empty(0))).state:
            if not ours.startswith("texts.encoder."):
                expected[ours] = (lr, decay)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    actual = {
        names[id(parameter)]: (pytest.approx(group["lr"]), group["weight_decay"])
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }
    assert actual == expected
    assert all(not parameter.requires_grad for parameter in model.texts.encoder.parameters())
