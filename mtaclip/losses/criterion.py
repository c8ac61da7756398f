"""The training losses: class, mask, dice and mask-to-text (those of Mask2Former, and the paper's own).

Letters: R predictions (one per decoder layer), B images, Q mask queries, C classes, K = C + 1, n contexts, N matched
masks of one image in all predictions, P points.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor, nn

from mtaclip.losses.contrastive import MaskTextContrastive
from mtaclip.losses.distributed import mean_over_processes
from mtaclip.losses.matcher import HungarianMatcher
from mtaclip.losses.point_sampling import PointSampler, sample_maps
from mtaclip.losses.targets import SemanticTargets
from mtaclip.structures import Predictions

MASK_NORMALIZERS = ("class_weight_sum", "num_masks")


class Criterion(nn.Module):
    """Matches queries with classes and sums up what is wrong with them.

    Args:
        num_classes: number C of classes.
        class_loss_weight: weight of the classification loss.
        mask_loss_weight: weight of the mask cross-entropy.
        dice_loss_weight: weight of the dice loss.
        class_weights: (K,) relative weight of each label, no-object last.
        mask_normalizer: what mask and dice losses are divided by: "class_weight_sum", the class weights of all
            queries' labels, as the released code does, or "num_masks", the number of matched masks.
        matcher: assigns queries.
        points: draws the sampled points.
        contrastive: the mask-to-text loss; None without a text side.
        contrastive_weight: its weight.
        supervise_initial: the first prediction is that of the initial queries.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        class_loss_weight: float,
        mask_loss_weight: float,
        dice_loss_weight: float,
        class_weights: Tensor,
        mask_normalizer: str,
        matcher: HungarianMatcher,
        points: PointSampler,
        contrastive: MaskTextContrastive | None = None,
        contrastive_weight: float = 1.0,
        supervise_initial: bool = False,
    ) -> None:
        super().__init__()
        if mask_normalizer not in MASK_NORMALIZERS:
            raise ValueError(
                f"MODEL.MTACLIP.LOSS.MASK_NORMALIZER must be one of {MASK_NORMALIZERS}, got {mask_normalizer!r}."
            )
        self.num_classes = num_classes
        self.class_loss_weight = class_loss_weight
        self.mask_loss_weight = mask_loss_weight
        self.dice_loss_weight = dice_loss_weight
        self.mask_normalizer = mask_normalizer
        self.matcher = matcher
        self.points = points
        self.contrastive = contrastive
        self.contrastive_weight = contrastive_weight
        self.supervise_initial = supervise_initial
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._weight_of = class_weights.tolist()

    def divisors(self, classes: Iterable[Tensor], num_queries: int) -> Tensor:
        """What the losses of a batch will be divided by, which its label maps alone tell.

        Args:
            classes: ids of the classes in every image of this process's part of the batch.
            num_queries: number Q of mask queries. In an image with more classes than that, the first Q count.

        Returns:
            (2,) float32: sum of the class weights of all queries' labels, and number of matched masks; the mean of
            the processes. `forward` computes the same from the matching if it is not told.
        """
        sums = [0.0, 0.0]
        for image in classes:
            matched = [self._weight_of[c] for c in image[:num_queries].tolist()]
            sums[0] += sum(matched) + (num_queries - len(matched)) * self._weight_of[-1]
            sums[1] += len(matched)
        return mean_over_processes(torch.tensor(sums).to(self.class_weights.device, non_blocking=True))

    def forward(
        self, predictions: Predictions, targets: SemanticTargets, divisors: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All weighted losses, computed in float32.

        Args:
            predictions: the decoder's, with similarities if there is a text side.
            targets: the ground truth, on the predictions' device.
            divisors: of a batch that comes in several parts, from `divisors`; None if this is all of it.

        Returns:
            Scalars `loss_ce`, `loss_mask`, `loss_dice` and, with a text side, `loss_mask_text` for the last layer;
            with the suffix `_i` for the prediction after i layers (`_0` is the initial queries').
        """
        device = predictions.class_logits.device
        with torch.autocast(device.type, enabled=False):
            assigned = self.matcher(predictions, targets, self.points.for_matching(len(targets), device))
            labels = assigned.to(device, non_blocking=True)
            weights = self.class_weights[labels]
            if divisors is None:
                matched = (assigned != self.num_classes).sum(dim=(1, 2)).to(weights, non_blocking=True)
                divisors = mean_over_processes(torch.stack([weights.sum(dim=(1, 2)), matched]))
            weight_sum = divisors[0] + torch.finfo(torch.float32).eps  # as in the released code
            mask_divisor = weight_sum if self.mask_normalizer == "class_weight_sum" else divisors[1]
            mask_divisor = mask_divisor.clamp(min=1 / comm.get_world_size())  # one mask in the whole batch

            ce = F.cross_entropy(predictions.class_logits.float().flatten(0, 2), labels.flatten(), reduction="none")
            ce = (ce.view_as(weights) * weights).sum(dim=(1, 2)) / weight_sum
            bce, dice = self._mask_losses(predictions, targets, assigned)
            losses = {
                "loss_ce": self.class_loss_weight * ce,
                "loss_mask": self.mask_loss_weight * bce / mask_divisor,
                "loss_dice": self.dice_loss_weight * dice / mask_divisor,
            }
            if self.contrastive is not None:
                per_query = self.contrastive(predictions.similarity, labels)
                losses["loss_mask_text"] = self.contrastive_weight * (per_query * weights).sum(dim=(1, 2)) / weight_sum
        return self._name_by_layer(losses)

    def _name_by_layer(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """{name: (R,)} -> {name_i: scalar}, i layers before the prediction; the last one has the bare name."""
        first = 0 if self.supervise_initial else 1
        named = {name: values[-1] for name, values in losses.items()}
        for name, values in losses.items():
            named |= {f"{name}_{layer}": value for layer, value in enumerate(values[:-1], start=first)}
        return named

    def _mask_losses(
        self, predictions: Predictions, targets: SemanticTargets, assigned: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums over matched masks of cross-entropy (averaged over points) and dice loss, (R,) each.

        Only matched masks are built, those of all layers together, image by image; their points' losses are one batch.
        """
        features, embeddings = predictions.mask_features.float(), predictions.mask_embeddings.float()
        image, layer, query = (assigned.transpose(0, 1) != self.num_classes).nonzero(as_tuple=True)
        nothing = embeddings.new_zeros(len(embeddings))
        if not len(image):  # no ground truth at all: zero, and still a function of every parameter
            zero = nothing + 0 * (features.sum() + embeddings.sum())
            return zero, zero
        counts = torch.bincount(image, minlength=len(targets)).tolist()
        rows = torch.stack([image, layer, query, assigned[layer, image, query]])
        image, layer, query, classes = rows.to(features.device, non_blocking=True)
        logits, truth = [], []
        each = features.unbind()  # their gradients are as large as one image, those of features[index] as the batch
        parts = zip(each, embeddings[layer, image, query].split(counts), classes.split(counts), strict=True)
        for index, (own_features, own, own_classes) in enumerate(parts):
            masks = (own @ own_features.flatten(1)).view(-1, *own_features.shape[-2:])
            points = self.points.for_losses(masks.detach(), index)
            logits.append(sample_maps(masks[:, None], points)[:, 0])
            truth.append(targets.at(index, points, own_classes))
        x, t = torch.cat(logits), torch.cat(truth)
        bce = F.binary_cross_entropy_with_logits(x, t, reduction="none").mean(-1)
        return nothing.index_add(0, layer, bce), nothing.index_add(0, layer, dice_loss(x, t))


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of each mask, with one added above and below: (N, P) logits and targets -> (N,)."""
    probabilities = logits.sigmoid()
    overlap = 2 * (probabilities * targets).sum(-1)
    return 1 - (overlap + 1) / (probabilities.sum(-1) + targets.sum(-1) + 1)
