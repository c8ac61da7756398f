"""The criterion that a configuration describes."""

import torch
from detectron2.config import CfgNode

from mtaclip.losses.contrastive import MaskTextContrastive
from mtaclip.losses.criterion import Criterion
from mtaclip.losses.matcher import HungarianMatcher
from mtaclip.losses.point_sampling import PointSampler


def build_criterion(cfg: CfgNode) -> Criterion:
    """Read MODEL.MTACLIP.LOSS and, with a text side, MODEL.MTACLIP.CONTRASTIVE.

    Raises:
        ValueError: an unknown contrastive type or normaliser, or a value out of range.
    """
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    loss, contrastive = cfg.MODEL.MTACLIP.LOSS, cfg.MODEL.MTACLIP.CONTRASTIVE
    class_weights = torch.ones(num_classes + 1)
    class_weights[-1] = loss.NO_OBJECT_WEIGHT
    mask_text = None
    if cfg.MODEL.MTACLIP.TEXT.ENABLED:
        mask_text = MaskTextContrastive(contrastive.TYPE, contrastive.TEMPERATURE, contrastive.LEARN_TEMPERATURE)
    return Criterion(
        num_classes=num_classes,
        class_loss_weight=loss.CLASS_WEIGHT,
        mask_loss_weight=loss.MASK_WEIGHT,
        dice_loss_weight=loss.DICE_WEIGHT,
        class_weights=class_weights,
        mask_normalizer=loss.MASK_NORMALIZER,
        matcher=HungarianMatcher(
            class_weight=loss.CLASS_WEIGHT, mask_weight=loss.MASK_WEIGHT, dice_weight=loss.DICE_WEIGHT
        ),
        points=PointSampler(loss.NUM_POINTS, loss.OVERSAMPLE_RATIO, loss.IMPORTANCE_SAMPLE_RATIO),
        contrastive=mask_text,
        contrastive_weight=contrastive.WEIGHT,
        supervise_initial=loss.SUPERVISE_INITIAL,
    )
