"""The meta-architecture: image tower, pixel decoder, prompted texts, mask-text decoder, criterion.

Letters: B images, H, W input size in pixels, C classes.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from mtaclip.data.vocabulary import load_vocabulary
from mtaclip.inference.semantic import semantic_scores, sliding_window_scores
from mtaclip.losses.build import build_criterion
from mtaclip.losses.criterion import Criterion
from mtaclip.losses.targets import SemanticTargets, classes_in
from mtaclip.modeling.clip import build_clip
from mtaclip.modeling.mask_text_decoder import MaskTextDecoder
from mtaclip.modeling.pixel_decoder import PixelDecoder
from mtaclip.modeling.text_encoder import CLIPTextEncoder, PromptedTexts
from mtaclip.structures import Predictions


@META_ARCH_REGISTRY.register()
class MTACLIP(nn.Module):
    """Mask classification guided by class texts; without texts, Mask2Former.

    Args:
        backbone: gives maps at strides 4, 8, 16 and 32.
        in_features: names of those maps.
        pixel_decoder: maps -> mask features and memories.
        decoder: mask and text queries -> predictions.
        texts: prompted class texts; None without a text side.
        criterion: the training losses.
        pixel_mean: mean of R, G, B in 0..255.
        pixel_std: standard deviation of R, G, B in 0..255.
        ignore_label: label of pixels that no class owns.
        train_size: (H, W) that training crops are padded to.
        window: ((height, width), (vertical, horizontal stride)) of sliding-window inference; None sees whole images.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        pixel_decoder: PixelDecoder,
        decoder: MaskTextDecoder,
        texts: PromptedTexts | None,
        criterion: Criterion,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        ignore_label: int,
        train_size: tuple[int, int],
        window: tuple[tuple[int, int], tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.in_features = list(in_features)
        self.pixel_decoder = pixel_decoder
        self.decoder = decoder
        self.texts = texts
        self.criterion = criterion
        self.ignore_label = ignore_label
        self.train_size = train_size
        self.window = window
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Every argument of the class from a configuration."""
        own, head = cfg.MODEL.MTACLIP, cfg.MODEL.SEM_SEG_HEAD
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        unknown = [name for name in head.IN_FEATURES if name not in shapes]
        if unknown:
            raise ValueError(f"MODEL.SEM_SEG_HEAD.IN_FEATURES: {unknown} are not maps of the backbone: {list(shapes)}.")
        texts = _build_texts(cfg) if own.TEXT.ENABLED else None
        sliding = cfg.TEST.SLIDING_WINDOW
        return {
            "backbone": backbone,
            "in_features": head.IN_FEATURES,
            "pixel_decoder": PixelDecoder(
                {name: shapes[name] for name in head.IN_FEATURES},
                dim=own.HIDDEN_DIM,
                layers=own.PIXEL_DECODER.LAYERS,
                heads=own.PIXEL_DECODER.HEADS,
                points=own.PIXEL_DECODER.POINTS,
                ffn_dim=own.PIXEL_DECODER.FFN_DIM,
                recompute=cfg.SOLVER.RECOMPUTE,
            ),
            "decoder": MaskTextDecoder(
                num_classes=head.NUM_CLASSES,
                num_queries=own.DECODER.NUM_QUERIES,
                dim=own.HIDDEN_DIM,
                layers=own.DECODER.LAYERS,
                heads=own.DECODER.HEADS,
                ffn_dim=own.DECODER.FFN_DIM,
                num_contexts=0 if texts is None else own.TEXT.NUM_CONTEXTS,
                text_dim=0 if texts is None else texts.encoder.embed_dim,
                predict_initial=own.LOSS.SUPERVISE_INITIAL,
            ),
            "texts": texts,
            "criterion": build_criterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "ignore_label": head.IGNORE_VALUE,
            "train_size": tuple(cfg.INPUT.CROP.SIZE),
            "window": (tuple(sliding.CROP_SIZE), tuple(sliding.STRIDE)) if sliding.ENABLED else None,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def loss_divisors(self, batches: Iterable[list[dict]]) -> Tensor:
        """What the losses of a batch in several parts are divided by (see `Criterion.divisors`), (2,)."""
        num_classes = self.criterion.num_classes
        classes = (classes_in(item["sem_seg"], num_classes) for batch in batches for item in batch)
        return self.criterion.divisors(classes, self.decoder.num_queries)

    def forward(
        self, batched_inputs: list[dict], divisors: Tensor | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, class scores in eval mode.

        Args:
            batched_inputs: one dict per image in Detectron2's format: "image" uint8 (3, h, w) RGB; in training
                "sem_seg" (h, w) label map; in eval mode "height" and "width", the size of the result in pixels
                (the image's own if absent).
            divisors: in training, `loss_divisors` of all parts of a batch of which this is one.

        Returns:
            In training the weighted losses by name. In eval mode per image {"sem_seg": (C, height, width) scores}.
        """
        if not self.training:
            return [{"sem_seg": self._scores(item)} for item in batched_inputs]
        images = torch.stack([self._pad(self._normalise(x["image"]), 0.0) for x in batched_inputs])
        labels = torch.stack([self._pad(x["sem_seg"], self.ignore_label) for x in batched_inputs])
        targets = SemanticTargets.from_labels(labels, self.criterion.num_classes, self.device)
        return self.criterion(self.predict(images), targets, divisors)

    def predict(self, images: Tensor) -> Predictions:
        """From normalised images (B, 3, H, W) to the decoder's `Predictions`."""
        features = self.backbone(images)
        mask_features, memories = self.pixel_decoder({name: features[name] for name in self.in_features})
        return self.decoder(memories, mask_features, None if self.texts is None else self.texts())

    def window_scores(self, images: Tensor) -> Tensor:
        """Class scores (B, C, H, W) of normalised images (B, 3, H, W) seen as a whole."""
        predictions = self.predict(images)
        return semantic_scores(predictions.class_logits[-1], predictions.mask_logits(), images.shape[-2:])

    def _scores(self, item: dict) -> Tensor:
        image = self._normalise(item["image"])[None]
        if self.window is None:
            scores = self.window_scores(image)
        else:
            scores = sliding_window_scores(self.window_scores, image, *self.window)
        size = (item.get("height", image.shape[-2]), item.get("width", image.shape[-1]))
        if scores.shape[-2:] != size:
            scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
        return scores[0]

    def _normalise(self, image: Tensor) -> Tensor:
        """uint8 or float (3, h, w) in 0..255 -> float32, zero mean and unit deviation, on the model's device."""
        return (image.to(self.device, non_blocking=True).float() - self.pixel_mean) / self.pixel_std

    def _pad(self, array: Tensor, value: float) -> Tensor:
        """Pad (..., h, w) at the right and the bottom to the size of training crops."""
        height, width = array.shape[-2:]
        missing = (0, self.train_size[1] - width, 0, self.train_size[0] - height)
        if min(missing) < 0:
            raise ValueError(
                f"A training image has {height} x {width} pixels, more than INPUT.CROP.SIZE {self.train_size}: "
                "set INPUT.CROP.ENABLED True."
            )
        return F.pad(array, missing, value=value)


def _build_texts(cfg: CfgNode) -> PromptedTexts:
    """The frozen text tower with learned contexts over the configured vocabulary."""
    text = cfg.MODEL.MTACLIP.TEXT
    names = load_vocabulary(text.VOCABULARY, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    clip = build_clip(cfg.MODEL.CLIP.ARCH, cfg.MODEL.CLIP.PRETRAINED)
    return PromptedTexts(
        CLIPTextEncoder(clip, text.CONTEXT_LENGTH + text.TOKEN_LENGTH),
        [*names, text.NO_OBJECT],
        num_contexts=text.NUM_CONTEXTS,
        context_length=text.CONTEXT_LENGTH,
        token_length=text.TOKEN_LENGTH,
    )
