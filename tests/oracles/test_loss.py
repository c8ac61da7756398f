"""Losses, gradients, matching and the whole training step against the authors' head."""

import pytest
import torch

from mtaclip.checkpoint.released import convert_released
from mtaclip.losses.contrastive import ContrastiveType, MaskTextContrastive
from mtaclip.losses.criterion import Criterion
from mtaclip.losses.matcher import HungarianMatcher
from mtaclip.losses.point_sampling import sample_maps
from mtaclip.losses.targets import SemanticTargets
from mtaclip.structures import Predictions

TYPES = dict(zip(("type0", "type1", "type2"), (t.value for t in ContrastiveType), strict=True))
NAMES = {"cls": "ce", "queries": "mask_text", "mask": "mask", "dice": "dice"}


class FixedPoints:
    """The golden points in place of random ones."""

    def __init__(self, matching, losses, counts):
        self.matching, self.losses = matching, losses
        self.starts = [sum(counts[:i]) for i in range(len(counts) + 1)]

    def for_matching(self, batch, device):
        return self.matching

    def for_losses(self, mask_logits, image):
        """(layer, mask, P, 2), masks image by image -> this image's rows, layer by layer."""
        return self.losses[:, self.starts[image] : self.starts[image + 1]].flatten(0, 1)


def criterion(num_classes, class_weights, weights, kind, matcher, points):
    return Criterion(
        num_classes=num_classes,
        class_loss_weight=weights[0],
        mask_loss_weight=weights[1],
        dice_loss_weight=weights[2],
        class_weights=class_weights,
        mask_normalizer="class_weight_sum",
        matcher=matcher,
        points=points,
        contrastive=MaskTextContrastive(kind),
        contrastive_weight=weights[3],
    )


def as_predictions(cls_logits, mask_logits, similarity=None) -> Predictions:
    """Given masks as predictions: the mask features are the masks, the embeddings pick them."""
    queries = mask_logits.shape[1]
    return Predictions(
        class_logits=cls_logits[None],
        mask_embeddings=torch.eye(queries).expand(1, len(mask_logits), -1, -1),
        mask_features=mask_logits,
        similarity=None if similarity is None else similarity[None],
    )


class StackedMasks:
    """Ground truth the plain way: one binary mask per matched query, sampled like any other map.

    The golden cases of one layer need it, because their random masks overlap.
    """

    def __init__(self, masks, classes):
        self.masks, self.classes = masks, classes

    def __len__(self):
        return len(self.masks)

    def at(self, image, points, classes):
        masks = self.masks[image].float()[:, None]
        return sample_maps(masks, points.expand(len(masks), -1, -1))[:, 0]


def relative(actual, expected, tolerance):
    scale = expected.abs().max().clamp(min=1e-12)
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", TYPES)
def test_losses_and_gradients_of_one_layer(loss_file, kind):
    golden = torch.load(loss_file, weights_only=True)
    num_classes = golden["config"]["num_classes"]
    for case in golden["cases"]:
        counts = (case["labels"] != num_classes).sum(1).tolist()
        weights = [case[f"weight_{name}"] for name in ("cls", "mask", "dice", "queries")]
        losses_of = criterion(
            num_classes,
            case["class_weight"],
            weights,
            TYPES[kind],
            matcher=lambda *args, case=case: case["labels"][None],
            points=FixedPoints(None, case["points"][None], counts),
        )
        inputs = [case[name].clone().requires_grad_() for name in ("cls_logits", "mask_logits", "similarity")]
        masks = StackedMasks(case["mask_targets"].split(counts), [None] * len(counts))
        losses = losses_of(as_predictions(*inputs), masks)

        results = case["results"]
        expected = {
            "loss_ce": (results["loss_cls"], results["grad_cls_logits"], inputs[0]),
            "loss_mask": (results["loss_mask"], results["grad_loss_mask"], inputs[1]),
            "loss_dice": (results["loss_dice"], results["grad_loss_dice"], inputs[1]),
            "loss_mask_text": (results[kind]["loss_queries"], results[kind]["grad_similarity"], inputs[2]),
        }
        assert set(losses) == set(expected)
        for name, (value, gradient, variable) in expected.items():
            torch.testing.assert_close(losses[name], value.squeeze(), rtol=0, atol=1e-5)
            (ours,) = torch.autograd.grad(losses[name], variable, retain_graph=True)
            relative(ours, gradient, 2e-5)


def test_matching_costs_and_assignment(loss_file):
    golden = torch.load(loss_file, weights_only=True)["matching"]
    predictions = as_predictions(golden["cls_logits"][None], golden["mask_logits"][None])
    args = (predictions, StackedMasks([golden["gt_masks"]], [golden["gt_labels"]]), golden["points"][None])

    weights = dict(zip(("class_weight", "mask_weight", "dice_weight"), golden["weights"], strict=True))
    for name in weights:
        matcher = HungarianMatcher(**{key: value if key == name else 0.0 for key, value in weights.items()})
        expected = golden[f"cost_{name.removesuffix('_weight')}"]
        torch.testing.assert_close(matcher.costs(*args)[0][0], expected, rtol=0, atol=1e-5)
    matcher = HungarianMatcher(**weights)
    torch.testing.assert_close(matcher.costs(*args)[0][0], golden["cost_total"], rtol=0, atol=1e-5)
    assert torch.equal(matcher(*args)[0, 0], golden["labels"])


@pytest.mark.parametrize("kind", TYPES)
def test_whole_training_step(loss_file, load_head, kind):
    head_file = loss_file.with_name(loss_file.name.replace("loss", "head"))
    if not head_file.is_file():
        pytest.skip(f"no {head_file.name} beside {loss_file.name}")
    golden_head, head = load_head(head_file)
    golden = torch.load(loss_file, weights_only=True)
    config, step = golden["config"], golden["end_to_end"]
    layers, num_classes = config["dec_layers"], config["num_classes"]
    head.decoder.predict_initial = False

    class_weights = torch.ones(num_classes + 1)
    class_weights[-1] = 0.1
    matcher = HungarianMatcher(class_weight=2.0, mask_weight=5.0, dice_weight=5.0)
    assignments = []

    def recording_matcher(*args):
        assignments.append(matcher(*args))
        return assignments[-1]

    losses_of = criterion(
        num_classes,
        class_weights,
        [2.0, 5.0, 5.0, config["loss_queries_wt"]],
        TYPES[kind],
        recording_matcher,
        FixedPoints(step["match_points"], step["loss_points"], step["num_gt"]),
    )
    features = [f.clone().requires_grad_() for f in golden_head["inputs"]["features"]]
    text = golden_head["inputs"]["text_embeddings"][:, 0].clone().requires_grad_()
    predictions, _ = head.train()(features, text)
    targets = SemanticTargets.from_labels(step["gt_sem_seg"].to(torch.uint8), num_classes, torch.device("cpu"))
    losses = losses_of(predictions, targets)

    assert torch.equal(assignments[0], torch.stack(step["assigned_labels"]))
    expected = step["losses"][kind]
    assert len(losses) == len(expected) - 1
    for layer in range(layers):
        prefix, suffix = ("", "") if layer == layers - 1 else (f"d{layer}.", f"_{layer + 1}")
        for theirs, ours in NAMES.items():
            torch.testing.assert_close(
                losses[f"loss_{ours}{suffix}"], expected[f"{prefix}loss_{theirs}"].squeeze(), rtol=0, atol=1e-5
            )
    total = sum(losses.values())
    torch.testing.assert_close(total, expected["total"], rtol=1e-6, atol=1e-5)
    if kind != f"type{step['config_query_loss_type']}":
        return  # the golden gradients are those of the configured type
    total.backward()
    for ours, theirs in zip(features, step["grad_features"], strict=True):
        relative(ours.grad, theirs, 2e-5)
    relative(text.grad, step["grad_text_embeddings"].sum(1), 2e-5)
    parameters = dict(head.named_parameters())
    gradients = convert_released({f"decode_head.{name}": theirs for name, theirs in step["grad_params"].items()})
    for name, theirs in gradients.state.items():
        relative(parameters[name].grad, theirs, 2e-5)
    norm = torch.stack([p.grad.norm() for p in parameters.values()]).norm()
    assert norm.item() == pytest.approx(step["total_grad_norm"], rel=2e-5)
