"""The meta-architecture: image tower, pixel decoder, prompted texts, mask-text decoder, criterion.

Letters: B images, H, W input size in pixels, C classes.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from torch import Tensor, nn

from mtaclip.data.folder import FOLDER_VOCABULARY, folder_classes
from mtaclip.data.vocabulary import ClassTexts, load_synonyms, load_test_vocabulary, same_text
from mtaclip.inference.classifier import MaskClassification
from mtaclip.inference.semantic import SemanticInference, SlidingWindow
from mtaclip.losses.build import build_criterion
from mtaclip.losses.criterion import Criterion
from mtaclip.losses.targets import SemanticTargets, classes_in
from mtaclip.modeling.clip import clip_from_config
from mtaclip.modeling.mask_text_decoder import MaskTextDecoder
from mtaclip.modeling.pixel_decoder import PixelDecoder
from mtaclip.modeling.text_encoder import CLIPTextEncoder, PromptedTexts
from mtaclip.modeling.vocabulary import OtherClasses
from mtaclip.structures import Predictions

SMALLEST = 32  # pixels each way that the image towers need, which divide by so much


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
        inference: how images become label maps.
        classification: how mask queries get their class in eval mode.
        other_classes: the classes of the results in eval mode where they are not the trained ones.
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
        inference: SemanticInference,
        classification: MaskClassification,
        other_classes: OtherClasses | None = None,
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
        self.inference = inference
        self.classification = classification
        self.other_classes = other_classes
        if len(pixel_mean) != 3 or len(pixel_std) != 3:
            raise ValueError(f"MODEL.PIXEL_MEAN and PIXEL_STD must have 3 values, got {pixel_mean} and {pixel_std}.")
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
                num_contexts=0 if texts is None else texts.num_prompts,
                text_dim=0 if texts is None else texts.encoder.embed_dim,
                predict_initial=own.LOSS.SUPERVISE_INITIAL,
            ),
            "texts": texts,
            "criterion": build_criterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "ignore_label": head.IGNORE_VALUE,
            "train_size": tuple(cfg.INPUT.CROP.SIZE),
            "inference": _inference(cfg),
            "classification": _classification(cfg),
            "other_classes": _other_classes(cfg, texts),
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    @property
    def class_texts(self) -> tuple[str, ...]:
        """Names of the classes that masks are compared with, the no-object text last; none without a text side."""
        if self.other_classes is not None:
            return (*self.other_classes.names, self.texts.class_texts[-1])
        return () if self.texts is None else self.texts.class_texts

    def loss_divisors(self, batches: Iterable[list[dict]]) -> Tensor:
        """What the losses of a batch in several parts are divided by (see `Criterion.divisors`), (2,)."""
        num_classes = self.criterion.num_classes
        classes = (classes_in(item["sem_seg"], num_classes) for batch in batches for item in batch)
        return self.criterion.divisors(classes, self.decoder.num_queries)

    def forward(
        self, batched_inputs: list[dict], divisors: Tensor | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training, label maps in eval mode.

        Args:
            batched_inputs: one dict per image in Detectron2's format: "image" uint8 (3, h, w) RGB; in training
                "sem_seg" (h, w) label map; in eval mode "height" and "width", the size of the result in pixels
                (the image's own if absent), and "scores", whether the class scores are wanted too (False if absent).
            divisors: in training, `loss_divisors` of all parts of a batch of which this is one.

        Returns:
            In training the weighted losses by name. In eval mode per image {"labels": (height, width) uint8 classes},
            255 where scores are not finite, and where they are wanted "sem_seg": (C, height, width) float32 scores.
        """
        if not self.training:
            return self._segment(batched_inputs)
        images = torch.stack([self._pad(self.normalise(x["image"]), 0.0) for x in batched_inputs])
        labels = torch.stack([self._pad(x["sem_seg"], self.ignore_label) for x in batched_inputs])
        targets = SemanticTargets.from_labels(labels, self.criterion.num_classes, self.device)
        return self.criterion(self.predict(images), targets, divisors)

    def predict(self, images: Tensor, *, compare: bool = False) -> Predictions:
        """From normalised images (B, 3, H, W) to the decoder's `Predictions`.

        Args:
            images: see `normalise`.
            compare: give similarities in eval mode too, where the model has a text side; those with other classes than
                the trained ones if it has some.
        """
        features = self.backbone(images)
        mask_features, memories = self.pixel_decoder({name: features[name] for name in self.in_features})
        text = None if self.texts is None else self.texts()
        predictions = self.decoder(memories, mask_features, text, compare=compare)
        if self.training or not compare or self.other_classes is None:
            return predictions
        return self.other_classes(predictions, self.texts)

    def classify_masks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """From images (B, 3, H, W) in 0..255 to (B, Q, C) class probabilities and (B, Q, H/4, W/4) mask logits."""
        predictions = self.predict(self.normalise(images), compare=self.classification.needs_text)
        similarity = None if predictions.similarity is None else predictions.similarity[-1]
        return self.classification(predictions.class_logits[-1], similarity), predictions.mask_logits()

    def _segment(self, batched_inputs: list[dict]) -> list[dict[str, Tensor]]:
        images = [item["image"].to(self.device, non_blocking=True) for item in batched_inputs]
        sizes = [
            (item.get("height", image.shape[-2]), item.get("width", image.shape[-1]))
            for item, image in zip(batched_inputs, images, strict=True)
        ]
        wanted = [item.get("scores", False) for item in batched_inputs]
        return self.inference(self.classify_masks, images, sizes, wanted)

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 or float (..., 3, h, w) in 0..255 -> float32, zero mean, unit deviation, on the model's device."""
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
    classes = _class_texts(cfg)
    _check_objects(classes, text.NO_OBJECT, "MODEL.MTACLIP.TEXT.VOCABULARY")
    return PromptedTexts(
        CLIPTextEncoder(clip_from_config(cfg, "text"), text.CONTEXT_LENGTH + text.TOKEN_LENGTH),
        [*classes, text.NO_OBJECT],
        num_contexts=text.NUM_CONTEXTS,
        context_length=text.CONTEXT_LENGTH,
        token_length=text.TOKEN_LENGTH,
        synonyms=text.SYNONYMS,
    )


def _class_texts(cfg: CfgNode) -> list[ClassTexts]:
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if cfg.MODEL.MTACLIP.TEXT.VOCABULARY != FOLDER_VOCABULARY:
        return load_synonyms(cfg.MODEL.MTACLIP.TEXT.VOCABULARY, num_classes)
    classes = folder_classes(cfg)
    if len(classes) != num_classes:
        raise ValueError(
            f"MODEL.MTACLIP.TEXT.VOCABULARY is '{FOLDER_VOCABULARY}', but DATASETS.FOLDER.NAMES has {len(classes)} "
            f"class names and MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}: name another vocabulary, or train on "
            "DATASETS.FOLDER."
        )
    return classes


def _check_objects(classes: Iterable[ClassTexts], no_object: str, key: str) -> None:
    """Refuse classes that `key` names if one of them reads as the text of no object."""
    if same_text(no_object) in {same_text(text) for texts in classes for text in texts}:
        raise ValueError(
            f"{key} has a class '{no_object}', which is the text of no object (MODEL.MTACLIP.TEXT.NO_OBJECT), so that "
            "they could not be told apart: give the class another text."
        )


def _inference(cfg: CfgNode) -> SemanticInference:
    """From images to label maps as TEST says."""
    sliding = cfg.TEST.SLIDING_WINDOW
    window = None
    if sliding.ENABLED:
        window = SlidingWindow(tuple(sliding.CROP_SIZE), tuple(sliding.STRIDE), sliding.BATCH)
    where = cfg.TEST.SCORES_DEVICE
    if where not in ("model", "cpu"):
        raise ValueError(f"TEST.SCORES_DEVICE must be 'model' or 'cpu', got {where!r}.")
    return SemanticInference(
        window=window,
        query_eps=cfg.TEST.QUERY_EPS,
        device=torch.device("cpu") if where == "cpu" else None,
        smallest=SMALLEST,
    )


def _classification(cfg: CfgNode) -> MaskClassification:
    """Which class mask queries have in eval mode, as TEST says."""
    test = cfg.TEST
    classification = MaskClassification(test.CLASSIFIER, test.TEXT_TEMPERATURE, test.TEXT_WEIGHT)
    if classification.needs_text and not cfg.MODEL.MTACLIP.TEXT.ENABLED:
        raise ValueError(
            f"TEST.CLASSIFIER is '{test.CLASSIFIER}', but the model has no text side (MODEL.MTACLIP.TEXT.ENABLED is "
            "False): set the key to 'linear'."
        )
    return classification


def _other_classes(cfg: CfgNode, texts: PromptedTexts | None) -> OtherClasses | None:
    """The classes of TEST.VOCABULARY."""
    classes = load_test_vocabulary(cfg.TEST.VOCABULARY)
    if classes is None:
        return None
    if texts is None or cfg.TEST.CLASSIFIER != "text":
        raise ValueError(
            "TEST.VOCABULARY names classes that only their texts can tell apart: "
            + ("take a model with a text side." if texts is None else "set TEST.CLASSIFIER to 'text'.")
        )
    _check_objects(classes, cfg.MODEL.MTACLIP.TEXT.NO_OBJECT, "TEST.VOCABULARY")
    return OtherClasses(classes, texts)
