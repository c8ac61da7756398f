"""The three ways to choose positives and negatives, by hand."""

import math

import pytest
import torch

from mtaclip.losses.contrastive import MaskTextContrastive

# One query, two contexts, two texts; the query's text is 0, whose prompts score 0.5 and 0.1.
SIMILARITY = torch.tensor([[0.5, -0.2], [0.1, 0.3]])[None, :, None, None]
LABEL = torch.zeros(1, 1, 1, dtype=torch.long)
ALL = math.log(sum(math.exp(x) for x in (0.5, -0.2, 0.1, 0.3)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("all_prompts", ALL - 0.3),
        ("best_prompt_others_ignored", math.log(sum(math.exp(x) for x in (0.5, -0.2, 0.3))) - 0.5),
        ("best_prompt_others_negative", ALL - 0.5),
    ],
)
def test_by_hand(kind, expected):
    assert MaskTextContrastive(kind)(SIMILARITY, LABEL).item() == pytest.approx(expected, abs=1e-6)


def test_temperature_divides():
    loss = MaskTextContrastive("all_prompts", temperature=0.5)(SIMILARITY, LABEL)
    assert torch.equal(loss, MaskTextContrastive("all_prompts")(SIMILARITY * 2, LABEL))


def test_temperature_can_be_learned():
    contrastive = MaskTextContrastive("all_prompts", temperature=0.1, learn_temperature=True)
    contrastive(SIMILARITY, LABEL).sum().backward()
    assert contrastive.log_temperature.grad is not None
    assert not list(MaskTextContrastive("all_prompts").parameters())


@pytest.mark.parametrize(("kind", "temperature", "words"), [("none", 1.0, "TYPE"), ("all_prompts", 0.0, "TEMPERATURE")])
def test_wrong_choices_are_named(kind, temperature, words):
    with pytest.raises(ValueError, match=words):
        MaskTextContrastive(kind, temperature)
