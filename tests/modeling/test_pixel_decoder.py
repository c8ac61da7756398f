"""The pixel decoder: shapes, initialisation, gradients, refusals."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec

from mtaclip.modeling.pixel_decoder import PixelDecoder, cell_centres

CHANNELS = {"res2": 8, "res3": 16, "res4": 24, "res5": 32}


def shapes(**strides):
    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32} | strides
    return {name: ShapeSpec(channels=CHANNELS[name], stride=stride) for name, stride in strides.items()}


def test_shapes_and_gradients_at_odd_sizes():
    model = PixelDecoder(shapes(), dim=32, layers=1, heads=4, ffn_dim=48)
    sizes = {"res2": (17, 25), "res3": (8, 12), "res4": (4, 6), "res5": (2, 3)}
    features = {name: torch.randn(2, CHANNELS[name], *size) for name, size in sizes.items()}
    mask_features, memories = model(features)
    assert mask_features.shape == (2, 32, 17, 25)
    assert [tuple(m.shape) for m in memories] == [(2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 8, 12)]
    (mask_features.square().sum() + sum(m.square().sum() for m in memories)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_cell_centres_by_hand():
    expected = torch.tensor([[0.25, 0.5], [0.75, 0.5]])
    assert torch.equal(cell_centres(1, 2, torch.empty(0)), expected)


def test_level_embeddings_have_unit_variance():
    model = PixelDecoder(shapes(), dim=256, layers=1)
    assert model.level_embedding.std().item() == pytest.approx(1.0, abs=3 / math.sqrt(2 * 768))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"dim": 48, "heads": 4}, "HIDDEN_DIM 48"), ({"dim": 32, "heads": 5}, "HIDDEN_DIM 32")],
)
def test_widths_that_do_not_divide_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        PixelDecoder(shapes(), **options)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="strides 4, 8, 16 and 32"):
        PixelDecoder(shapes(res5=16), dim=32, heads=4)
