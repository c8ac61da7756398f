"""Ground truth read at points straight from label maps, without a mask per class.

Letters: B images, H, W size of the label maps, C classes, N masks, P points.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtaclip.losses.point_sampling import label_neighbours


@dataclass
class SemanticTargets:
    """One binary mask per class that an image holds, kept as the label map.

    Attributes:
        labels: (B, H, W) uint8 label maps; what is not a class (255) belongs to no mask and is outside of all.
        classes: per image the ids of the classes it holds, on the CPU.
    """

    labels: Tensor
    classes: list[Tensor]

    @classmethod
    def from_labels(cls, labels: Tensor, num_classes: int, device: torch.device) -> "SemanticTargets":
        """Find the classes of label maps and move the maps to a device.

        Args:
            labels: (B, H, W) uint8 on the CPU, where counting does not wait for a device.
            num_classes: number C of classes; values from C on are ignored.
            device: where the losses are computed.
        """
        counts = (torch.bincount(image.flatten(), minlength=num_classes)[:num_classes] for image in labels)
        return cls(labels.to(device, non_blocking=True), [count.nonzero()[:, 0] for count in counts])

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
        found, weights = label_neighbours(self.labels[image], points)
        return ((found == classes[:, None, None]) * weights).sum(-1)
