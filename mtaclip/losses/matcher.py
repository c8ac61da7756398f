"""Bipartite matching of mask queries with the classes that an image holds (DETR; Mask2Former).

Letters: R predictions (one per decoder layer), B images, Q mask queries, K classes with no-object, d width,
G classes in an image, P points.
"""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mtaclip.losses.distributed import true_everywhere
from mtaclip.losses.point_sampling import sample_maps
from mtaclip.losses.targets import SemanticTargets
from mtaclip.structures import Predictions


def pairwise_mask_costs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cost of taking each query's mask for each class's, from P points.

    Args:
        logits: (..., Q, P) mask logits.
        targets: (..., G, P) ground truth in 0..1.

    Returns:
        Binary cross-entropy averaged over the points, and dice cost, both (..., Q, G). With logit x and target t,
        the cross-entropy is softplus(x) - x * t: one product serves all pairs.
    """
    targets = targets.transpose(-1, -2)
    bce = (F.softplus(logits).sum(-1, keepdim=True) - logits @ targets) / logits.shape[-1]
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities @ targets)
    total = probabilities.sum(-1, keepdim=True) + targets.sum(-2, keepdim=True)
    return bce, 1 - (overlap + 1) / (total + 1)


class HungarianMatcher:
    """Assigns to every class in an image the query that is cheapest for all of them together.

    Args:
        class_weight: weight of the class cost, minus the probability of the class.
        mask_weight: weight of the cross-entropy cost.
        dice_weight: weight of the dice cost.
    """

    def __init__(self, *, class_weight: float, mask_weight: float, dice_weight: float) -> None:
        self.class_weight, self.mask_weight, self.dice_weight = class_weight, mask_weight, dice_weight

    @torch.no_grad()
    def costs(self, predictions: Predictions, targets: SemanticTargets, points: Tensor) -> list[Tensor]:
        """Matching costs, computed in float32.

        Args:
            predictions: the decoder's.
            targets: the ground truth.
            points: (R, B, P, 2), or (1, B, P, 2) shared by the predictions.

        Returns:
            Per image (R, Q, G).
        """
        counts = [len(classes) for classes in targets.classes]
        classes = torch.cat(list(targets.classes)).to(points.device, non_blocking=True).split(counts)
        likelihoods = predictions.class_logits.float().softmax(-1)
        embeddings = predictions.mask_embeddings.float()
        costs = []
        for image, present in enumerate(classes):
            features = predictions.mask_features[image][None].float()
            rows = []
            for index in range(len(embeddings)):  # one at a time: R * Q * P logits would not fit into any cache
                if index < len(points):
                    where = points[index, image][None]
                    sampled = sample_maps(features, where)[0]
                    truth = targets.at(image, where, present)
                bce, dice = pairwise_mask_costs(embeddings[index, image] @ sampled, truth)
                rows.append(self.mask_weight * bce + self.dice_weight * dice)
            costs.append(torch.stack(rows) - self.class_weight * likelihoods[:, image, :, present])
        return costs

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: SemanticTargets, points: Tensor) -> Tensor:
        """Match all predictions of all images, with one copy from the device to the host.

        With several processes all of them raise if one has to.

        Args:
            predictions: the decoder's.
            targets: the ground truth.
            points: (R, B, P, 2), or (1, B, P, 2) shared by the predictions.

        Returns:
            (R, B, Q) int64 on the CPU: every query's class, or C (no-object).

        Raises:
            FloatingPointError: a cost or a similarity is not finite; the message names the tensor at fault.
        """
        count, batch, queries, num_labels = predictions.class_logits.shape
        with torch.autocast(points.device.type, enabled=False):
            costs = self.costs(predictions, targets, points)
            flat = torch.cat([c.flatten(1) for c in costs], dim=1)
            seen = [flat] if predictions.similarity is None else [flat, predictions.similarity]  # costs see the rest
            finite = true_everywhere(torch.stack([t.isfinite().all() for t in seen]).all())
        flat = torch.cat([flat.flatten(), finite[None]]).cpu()
        if not flat[-1]:
            raise FloatingPointError(_name_culprit(predictions, flat))
        flat = flat[:-1].view(count, -1)
        assigned = torch.full((count, batch, queries), num_labels - 1, dtype=torch.long)
        for image, block in enumerate(flat.split([queries * len(c) for c in targets.classes], dim=1)):
            for index, cost in enumerate(block.view(count, queries, len(targets.classes[image])).numpy()):
                rows, columns = linear_sum_assignment(cost)
                assigned[index, image, rows] = targets.classes[image][columns]
        return assigned


def _name_culprit(predictions: Predictions, costs: Tensor) -> str:
    """Which prediction holds the first value that is not finite, in the order of computation."""
    tensors = {
        "mask features": predictions.mask_features[None],
        "class logits": predictions.class_logits,
        "mask embeddings": predictions.mask_embeddings,
    }
    if predictions.similarity is not None:
        tensors["mask-text similarities"] = predictions.similarity
    for name, tensor in tensors.items():
        for index, part in enumerate(tensor):
            if not part.isfinite().all():
                return f"the {name} of prediction {index} hold NaN or infinity"
    if not costs.isfinite().all():
        return "matching costs overflow float32 although all predictions are finite"
    return "values in another process hold NaN or infinity"
