"""Ground truth read at points straight from label maps, without a mask per class.

Letters: B images, H, W size of the label maps, C classes, N masks, P points.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_BORDER = 2  # pixels of no class around a label map, so that a point's four neighbours are always in it
_NO_CLASS = 255


def classes_in(labels: Tensor, num_classes: int) -> Tensor:
    """Ids of the classes that a label map (H, W) on the CPU holds, sorted; values from `num_classes` on are none."""
    return torch.bincount(labels.flatten(), minlength=num_classes)[:num_classes].nonzero()[:, 0]


@dataclass
class SemanticTargets:
    """One binary mask per class that an image holds, kept as the label map.

    Attributes:
        labels: (B, H, W) uint8 label maps; what is not a class (255) belongs to no mask and is outside of all.
        classes: per image the ids of the classes it holds, on the CPU.
    """

    labels: Tensor
    classes: list[Tensor]

    def __post_init__(self) -> None:
        self._bordered = F.pad(self.labels, (_BORDER,) * 4, value=_NO_CLASS)

    @classmethod
    def from_labels(cls, labels: Tensor, num_classes: int, device: torch.device) -> "SemanticTargets":
        """Find the classes of label maps and move the maps to a device.

        Args:
            labels: (B, H, W) uint8 on the CPU, where counting does not wait for a device.
            num_classes: number C of classes; values from C on are ignored.
            device: where the losses are computed.
        """
        return cls(labels.to(device, non_blocking=True), [classes_in(image, num_classes) for image in labels])

    def __len__(self) -> int:
        return len(self.classes)

    def at(self, image: int, points: Tensor, classes: Tensor) -> Tensor:
        """What bilinear sampling of the binary masks of some classes gives.

        Args:
            image: index in the batch.
            points: (N, P, 2) as (x, y) in 0..1, or (1, P, 2) for the same points in all masks.
            classes: (N,) class of each mask, on the points' device.

        Returns:
            (N, P) float32 in 0..1.
        """
        height, width = self.labels.shape[-2:]
        pixels, stride = self._bordered[image].flatten(), width + 2 * _BORDER
        x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
        left, top = x.floor(), y.floor()
        right_share, bottom_share = x.sub_(left), y.sub_(top)  # in place: with many masks these are large
        column, row = left.clamp_(-_BORDER, width), top.clamp_(-_BORDER, height)
        upper_left = (row.long() + _BORDER).mul_(stride).add_(column.long() + _BORDER)

        def share(neighbour: int, weight: Tensor) -> Tensor:
            return torch.where(pixels[upper_left + neighbour] == classes[:, None], weight, 0.0)

        upper = share(0, 1 - right_share) + share(1, right_share)
        lower = share(stride, 1 - right_share) + share(stride + 1, right_share)
        return torch.lerp(upper, lower, bottom_share.expand_as(upper))
