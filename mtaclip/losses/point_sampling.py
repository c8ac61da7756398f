"""Points instead of whole masks (PointRend; Mask2Former).

Letters: B images, N masks, P points. A point is (x, y) in 0..1 over the image, (0, 0) its upper left
corner; everything outside the image is zero. Sampling is bilinear with pixel centres at (i + 0.5) / size.
"""

import torch
from torch import Tensor

from mtaclip.ops.sampling import sample_bilinear


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples of feature maps or masks.

    Args:
        maps: (B, C, h, w).
        points: (B, P, 2).

    Returns:
        (B, C, P).
    """
    grid = (2 * points - 1)[:, :, None]
    return sample_bilinear(maps, grid)[..., 0]


class PointSampler:
    """Draws the points; tests put fixed ones in its place.

    Args:
        num_points: points P.
        oversample_ratio: candidates of importance sampling, in multiples of P.
        importance_ratio: share of the points that are the most uncertain candidates.
    """

    def __init__(self, num_points: int, oversample_ratio: float, importance_ratio: float) -> None:
        if oversample_ratio < 1 or not 0 <= importance_ratio <= 1:
            raise ValueError(
                "MODEL.MTACLIP.LOSS: OVERSAMPLE_RATIO must be at least 1 and IMPORTANCE_SAMPLE_RATIO within 0..1, got "
                f"{oversample_ratio} and {importance_ratio}."
            )
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(num_points * importance_ratio)

    def for_matching(self, batch: int, device: torch.device) -> Tensor:
        """Uniform points of every image, (1, B, P, 2): one set serves all layers' predictions."""
        return torch.rand(1, batch, self.num_points, 2, device=device)

    @torch.no_grad()
    def for_losses(self, mask_logits: Tensor, image: int) -> Tensor:
        """Points of every matched mask of one image, (N, P, 2), most of them where the mask is uncertain.

        All masks choose from the same candidates, so that one look at the image serves them all.

        Args:
            mask_logits: (N, h, w).
            image: index of the image in the batch.
        """
        count, device = len(mask_logits), mask_logits.device
        candidates = torch.rand(self.num_candidates, 2, device=device)
        certainty = sample_maps(mask_logits[None], candidates[None])[0].abs()
        chosen = certainty.topk(self.num_uncertain, dim=1, largest=False, sorted=False).indices
        uniform = torch.rand(count, self.num_points - self.num_uncertain, 2, device=device)
        return torch.cat([candidates[chosen], uniform], dim=1)
