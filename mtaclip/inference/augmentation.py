"""Test-time augmentation: the mean over several sizes of an image, and over its mirror images.

Letters: C classes, H, W size of an image in pixels.
"""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from mtaclip.data.augmentation import ResizeWithin
from mtaclip.inference.canvas import most_likely


def build_inference(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model as it is evaluated: with test-time augmentation if TEST.AUG.ENABLED, which reads Detectron2's keys."""
    if not cfg.TEST.AUG.ENABLED:
        return model
    return AugmentedInference(model, cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE, flip=cfg.TEST.AUG.FLIP)


class AugmentedInference(nn.Module):
    """A model that sees every image several times.

    The scores of an image are the plain average of those that the model gives for each of its versions. They are kept
    at the size of the result, twice: 8 C H W bytes.

    Args:
        model: in eval mode as `mtaclip.modeling.meta_arch.MTACLIP`.
        short_limits: for each size, the limit of the shorter edge in pixels, as INPUT.MIN_SIZE_TEST.
        long_limit: limit of the longer edge in pixels, as INPUT.MAX_SIZE_TEST.
        flip: see each size also mirrored, left to right.

    Raises:
        ValueError: there is no size, or a limit is not positive.
    """

    def __init__(self, model: nn.Module, short_limits: Sequence[int], long_limit: int, *, flip: bool) -> None:
        super().__init__()
        if not short_limits or min(*short_limits, long_limit) < 1:
            raise ValueError(
                "TEST.AUG.MIN_SIZES must name one or more positive sizes in pixels and TEST.AUG.MAX_SIZE another, got "
                f"{tuple(short_limits)} and {long_limit}."
            )
        self.model = model
        self.training = model.training
        self._resizes = [ResizeWithin(limit, long_limit) for limit in short_limits]
        self._flip = flip

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        """Segment images of their original size; inputs and results are those of the model."""
        return [self._segment(item) for item in batched_inputs]

    def _segment(self, item: dict) -> dict[str, Tensor]:
        image = item["image"].permute(1, 2, 0).cpu().numpy()
        size = {"height": item.get("height", image.shape[0]), "width": item.get("width", image.shape[1])}
        total: Tensor | None = None
        for resize in self._resizes:
            resized = resize.get_transform(image).apply_image(image)
            for version in (resized, resized[:, ::-1]) if self._flip else (resized,):
                channels_first = torch.from_numpy(np.ascontiguousarray(version.transpose(2, 0, 1)))
                (result,) = self.model([item | size | {"image": channels_first, "scores": True}])
                scores = result["sem_seg"] if version is resized else result["sem_seg"].flip(-1)
                total = scores if total is None else total.add_(scores)
        total /= len(self._resizes) * (2 if self._flip else 1)
        return {"labels": most_likely(total)} | ({"sem_seg": total} if item.get("scores") else {})
