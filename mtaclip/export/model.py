"""The inference graph by itself: what `torch.export` and ONNX get to see of a model.

Letters: B images, C classes, n contexts, K = C + 1 texts, D width of CLIP's embedding space, H, W size of an image in
pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtaclip.inference.canvas import INVALID
from mtaclip.modeling.meta_arch import MTACLIP
from mtaclip.predictor import Predictor


class ExportableModel(nn.Module):
    """Images to label maps and class scores, as whole images are evaluated, in float32 and all at once.

    Normalisation is inside, and the text side is a constant: the embeddings of the class texts, without the text tower.

    Args:
        model: in eval mode; its modules are shared, not copied.
    """

    def __init__(self, model: MTACLIP) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.in_features = model.in_features
        self.pixel_decoder = model.pixel_decoder
        self.decoder = model.decoder
        self.classification = model.classification
        self.register_buffer("pixel_mean", model.pixel_mean)
        self.register_buffer("pixel_std", model.pixel_std)
        with torch.no_grad():
            self.register_buffer("text", None if model.texts is None else model.texts())  # (n, K, D)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Segment.

        Args:
            images: (B, 3, H, W) RGB in 0..255, uint8 or float.

        Returns:
            (B, H, W) uint8 labels, 255 where scores are not finite, and (B, C, H, W) float32 class scores.
        """
        features = self.backbone((images.float() - self.pixel_mean) / self.pixel_std)
        mask_features, memories = self.pixel_decoder({name: features[name] for name in self.in_features})
        predictions = self.decoder(memories, mask_features, self.text, compare=self.classification.needs_text)
        similarity = None if predictions.similarity is None else predictions.similarity[-1]
        probabilities = self.classification(predictions.class_logits[-1], similarity)
        masks = F.interpolate(predictions.mask_logits(), size=images.shape[-2:], mode="bilinear", align_corners=False)
        scores = torch.einsum("bqc,bqhw->bchw", probabilities, masks.sigmoid())
        best, labels = scores.max(dim=1)
        return labels.to(torch.uint8).masked_fill(~best.isfinite(), INVALID), scores


def exportable(predictor: Predictor) -> ExportableModel:
    """The inference graph of a predictor, if it can be exported.

    Raises:
        ValueError: the predictor sees images through windows or several times, or for other classes than it was
            trained for, or its parts are compiled.
    """
    model = predictor.model
    if not isinstance(model, MTACLIP):
        raise ValueError("what is exported sees an image once: set TEST.AUG.ENABLED False.")
    if model.inference.window is not None:
        raise ValueError("what is exported sees whole images: set TEST.SLIDING_WINDOW.ENABLED False.")
    if model.other_classes is not None:
        raise ValueError("what is exported knows the trained classes only: set TEST.VOCABULARY to ''.")
    if predictor.cfg.SOLVER.COMPILE:
        raise ValueError("a model that torch.compile has changed cannot be exported: set SOLVER.COMPILE False.")
    return ExportableModel(model)
