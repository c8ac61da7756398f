"""Class probabilities by the linear head, by texts and by both, by hand."""

import math

import pytest
import torch

from mtaclip.inference.classifier import MaskClassification

LOG = math.log
# One query, two classes and no object: probabilities 1/2, 1/4, 1/4.
LOGITS = torch.tensor([[[LOG(2), 0.0, 0.0]]])
# Two contexts; the best of each text is 0.1 ln 1, 0.1 ln 6, 0.1 ln 1: probabilities 1/8, 6/8, 1/8 at temperature 0.1.
SIMILARITY = 0.1 * torch.tensor([[[[LOG(1), LOG(2), -1.0]]], [[[-1.0, LOG(6), LOG(1)]]]])


@pytest.mark.parametrize(
    ("classification", "expected"),
    [
        (MaskClassification(), (1 / 2, 1 / 4)),
        (MaskClassification("text", 0.1), (1 / 8, 6 / 8)),
        # Square roots of the products, 1/16, 3/16 and 1/32, made to sum to 1.
        (MaskClassification("ensemble", 0.1), [x / (2**0.5 + 6**0.5 + 1) for x in (2**0.5, 6**0.5)]),
        (MaskClassification("ensemble", 0.1, text_weight=0.0), (1 / 2, 1 / 4)),
        (MaskClassification("ensemble", 0.1, text_weight=1.0), (1 / 8, 6 / 8)),
    ],
)
def test_by_hand(classification, expected):
    similarity = SIMILARITY if classification.needs_text else None
    torch.testing.assert_close(classification(LOGITS, similarity), torch.tensor([[list(expected)]]))


def test_probabilities_are_float32_in_any_type():
    assert MaskClassification()(LOGITS.bfloat16(), None).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "key"),
    [(("texts",), "CLASSIFIER"), (("text", 0.0), "TEXT_TEMPERATURE"), (("ensemble", 1.0, 1.5), "TEXT_WEIGHT")],
)
def test_settings_that_cannot_work_name_their_key(settings, key):
    with pytest.raises(ValueError, match=rf"TEST\.{key}"):
        MaskClassification(*settings)
