"""Exported files beside the model that they are of.

Letters: B images, C classes, H, W size of an image in pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mtaclip.export.onnx_file import check_installed
from mtaclip.inference.resize import Size
from mtaclip.predictor import Predictor

TOLERANCE = 1e-3
"""Largest difference between a class score of a file and of its model; float32 sums in another order stay below."""
Runner = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Images (B, 3, H, W) uint8 -> labels (B, H, W) uint8 and scores (B, C, H, W) float32."""


@dataclass(frozen=True)
class Agreement:
    """How a file and its model agree on one image.

    Attributes:
        difference: the largest between two scores of a class at a pixel.
        equal: share of the pixels with the same label, 0 .. 1.
        preference: where labels differ, by how much the model scores its own label higher than the file's, at most;
            0 where none does. Two classes that score alike may change places by a rounding.
    """

    difference: float
    equal: float
    preference: float

    def check(self, size: Size) -> None:
        """Refuse a file that is not its model.

        Args:
            size: height and width of the image in pixels, for the message.

        Raises:
            ValueError: the difference is larger than `TOLERANCE`, or not finite.
        """
        if not self.difference <= TOLERANCE:
            raise ValueError(
                f"nothing was written: on {size[0]} x {size[1]} pixels of noise, class scores of the file differ from "
                f"the model's by up to {self.difference:.1e}, more than {TOLERANCE:.0e}."
            )


def load_program(file: Path) -> Runner:
    """Read a file that `save_program` wrote."""
    return torch.export.load(file).module()


def load_onnx(file: Path) -> Runner:
    """Read a file that `save_onnx` wrote, for the CPU.

    Raises:
        ValueError: a library is missing.
    """
    check_installed()
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        labels, scores = session.run(["labels", "scores"], {"images": images.cpu().numpy()})
        return torch.from_numpy(labels), torch.from_numpy(scores)

    return run


@torch.no_grad()
def compare(run: Runner, predictor: Predictor, size: Size) -> Agreement:
    """Let a file and its model see the same noise.

    Args:
        run: the file.
        predictor: the model, which leaves out queries as TEST.QUERY_EPS says.
        size: height and width of the noise in pixels.
    """
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    (expected,) = predictor.model([{"image": image, "scores": True}])
    labels, scores = run(image[None].to(expected["labels"].device))
    file, model = labels[0].cpu().long(), expected["labels"].cpu().long()
    model_scores = expected["sem_seg"].cpu()
    difference = (scores[0].cpu() - model_scores).abs().max()
    preference = (model_scores.gather(0, model[None]) - model_scores.gather(0, file[None])).max()
    return Agreement(difference.item(), (file == model).float().mean().item(), preference.item())
