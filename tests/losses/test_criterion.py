"""The criterion: edge cases, normalisers, numbers by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from mtaclip.losses.contrastive import MaskTextContrastive
from mtaclip.losses.criterion import Criterion, dice_loss
from mtaclip.losses.matcher import HungarianMatcher, pairwise_mask_costs
from mtaclip.losses.point_sampling import PointSampler
from mtaclip.losses.targets import SemanticTargets
from mtaclip.structures import Predictions

LAYERS, BATCH, QUERIES, CLASSES, CONTEXTS, DIM = 2, 2, 5, 4, 2, 8


def criterion(mask_normalizer="class_weight_sum", with_text=True, **options) -> Criterion:
    weights = torch.ones(CLASSES + 1)
    weights[-1] = 0.1
    return Criterion(
        num_classes=CLASSES,
        class_loss_weight=2.0,
        mask_loss_weight=5.0,
        dice_loss_weight=5.0,
        class_weights=weights,
        mask_normalizer=mask_normalizer,
        matcher=HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0),
        points=PointSampler(64, 3.0, 0.75),
        contrastive=MaskTextContrastive("best_prompt_others_negative") if with_text else None,
        **options,
    )


def predictions(with_text=True, queries=QUERIES, scale=1.0) -> Predictions:
    torch.manual_seed(0)
    similarity = torch.rand(LAYERS, CONTEXTS, BATCH, queries, CLASSES + 1) * 2 - 1
    return Predictions(
        class_logits=(torch.randn(LAYERS, BATCH, queries, CLASSES + 1) * scale).requires_grad_(),
        mask_embeddings=(torch.randn(LAYERS, BATCH, queries, DIM) * scale).requires_grad_(),
        mask_features=torch.randn(BATCH, DIM, 8, 8).requires_grad_(),
        similarity=similarity.requires_grad_() if with_text else None,
    )


def targets(*images) -> SemanticTargets:
    labels = torch.stack([torch.tensor(image, dtype=torch.uint8).expand(32, 32) for image in images])
    return SemanticTargets.from_labels(labels, CLASSES, torch.device("cpu"))


def stripes(*classes):
    """Label map of vertical stripes."""
    return torch.tensor(classes).repeat_interleave(32 // len(classes)).tolist()


def backward(losses, made):
    sum(losses.values()).backward()
    tensors = [made.class_logits, made.mask_embeddings, made.mask_features]
    return [t.grad for t in (*tensors, *([made.similarity] if made.similarity is not None else []))]


@pytest.mark.parametrize(
    "images",
    [
        (stripes(0, 1), stripes(2, 3)),
        (stripes(0, 1), stripes(255)),
        (stripes(255), stripes(255)),
        (stripes(1), stripes(1)),
    ],
    ids=["two classes", "one image ignored", "all ignored", "one class"],
)
def test_losses_are_finite_and_reach_everything(images):
    made = predictions()
    losses = criterion()(made, targets(*images))
    assert set(losses) == {f"loss_{n}{s}" for n in ("ce", "mask", "dice", "mask_text") for s in ("", "_1")}
    for gradient in backward(losses, made):
        assert gradient is not None and gradient.isfinite().all()
    if images == (stripes(255), stripes(255)):
        assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0 and losses["loss_ce"] > 0


def test_more_classes_than_queries():
    made = predictions(queries=2)
    losses = criterion()(made, targets(stripes(0, 1, 2, 3), stripes(0, 1, 2, 3)))
    assert all(value.isfinite() for value in losses.values())


def test_names_with_the_initial_prediction():
    losses = criterion(with_text=False, supervise_initial=True)(predictions(False), targets(stripes(0), stripes(1)))
    assert set(losses) == {f"loss_{n}{s}" for n in ("ce", "mask", "dice") for s in ("", "_0")}


def test_normalisers():
    """Two matched masks of ten queries: the class weights sum to 2 + 8 * 0.1 = 2.8."""
    made, truth = predictions(), targets(stripes(0), stripes(1))
    torch.manual_seed(3)
    released = criterion("class_weight_sum")(made, truth)
    torch.manual_seed(3)
    mask2former = criterion("num_masks")(made, truth)
    for name in ("loss_mask", "loss_dice", "loss_mask_1"):
        assert (released[name] * 2.8).item() == pytest.approx((mask2former[name] * 2).item(), rel=1e-5)
    assert torch.equal(released["loss_ce"], mask2former["loss_ce"])


def test_bf16_predictions_give_float32_losses():
    made = predictions()
    half = Predictions(
        *(getattr(made, f).bfloat16() for f in ("class_logits", "mask_embeddings", "mask_features", "similarity"))
    )
    with torch.autocast("cpu", torch.bfloat16):
        losses = criterion()(half, targets(stripes(0, 1), stripes(2)))
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


@pytest.mark.parametrize(
    ("name", "words"),
    [("class_logits", "class logits of prediction 1"), ("mask_embeddings", "mask embeddings of prediction 1")],
)
def test_nan_is_named(name, words):
    made = predictions()
    getattr(made, name).data[1, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=words):
        criterion()(made, targets(stripes(0), stripes(1)))


def test_matching_costs_equal_the_plain_formulas():
    logits, truth = torch.randn(3, 20), torch.rand(2, 20)
    bce, dice = pairwise_mask_costs(logits, truth)
    for q in range(3):
        for g in range(2):
            expected = F.binary_cross_entropy_with_logits(logits[q], truth[g])
            assert bce[q, g].item() == pytest.approx(expected.item(), abs=1e-5)
            p = logits[q].sigmoid()
            expected = 1 - (2 * (p * truth[g]).sum() + 1) / (p.sum() + truth[g].sum() + 1)
            assert dice[q, g].item() == pytest.approx(expected.item(), abs=1e-5)


def test_dice_by_hand():
    # Probabilities 1 and 0 against targets 1 and 1: 1 - (2 * 1 + 1) / (1 + 2 + 1) = 1/4.
    loss = dice_loss(torch.tensor([[100.0, -100.0]]), torch.tensor([[1.0, 1.0]]))
    assert loss.item() == pytest.approx(0.25)


def test_the_obvious_match_is_found():
    """Query 1 draws the left half and says class 2, query 0 the right half and class 0."""
    features = torch.ones(1, 1, 8, 8)
    features[..., :4] = -1
    logits = torch.zeros(1, 1, 3, CLASSES + 1)
    logits[0, 0, 1, 2] = logits[0, 0, 0, 0] = logits[0, 0, 2, CLASSES] = 5.0
    made = Predictions(logits, torch.tensor([[[[9.0], [-9.0], [-9.0]]]]), features)
    matcher = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0)
    assigned = matcher(made, targets(stripes(2, 0)), torch.rand(1, 1, 64, 2))
    assert assigned.tolist() == [[[0, 2, CLASSES]]]
