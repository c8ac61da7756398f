"""From the tensors of a model to the config that builds it.

Facts are what shapes decide. Guesses are what they leave open: which data the model is for, and how its images are
treated, if nobody says otherwise.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from mtaclip.config import value_of
from mtaclip.data.vocabulary import load_vocabulary

_STAGES = ("res2", "res3", "res4", "res5")
_IMAGENET_MEAN, _IMAGENET_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
# Classes of a dataset, its name in this project, and the shorter and the longer edge that the field tests it with.
_DATASETS = {
    150: ("ade20k", "ade20k_150_sem_seg_val", 512, 2048),
    19: ("cityscapes", "cityscapes_sem_seg_val", 1024, 2048),
}
_EQUAL_NAMES = 0.8  # share of the class names that must be the dataset's; spelling differs here and there
# Blocks of the four stages of a ResNet by its depth; of the kind with bottlenecks, or of the one without.
_RESNET_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_RESNET_BASIC_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def facts_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Config keys that the shapes of a model's tensors decide.

    Args:
        state: tensors by this project's names.

    Raises:
        ValueError: parts that every model has are missing, or the image tower is of no known kind.
    """
    facts = sizes_of(state) | {
        "MODEL.META_ARCHITECTURE": "MTACLIP",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": list(_STAGES),
        "MODEL.MTACLIP.TEXT.ENABLED": "texts.contexts" in state,
    }
    return facts | _text_facts(state) | _backbone_facts(state)


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Config keys for the sizes of the parts that every model has, as its tensors have them.

    Args:
        state: tensors by this project's names.

    Raises:
        ValueError: a part is missing.
    """
    return {
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": shape(state, "decoder.class_head.weight")[0] - 1,
        "MODEL.MTACLIP.HIDDEN_DIM": shape(state, "pixel_decoder.mask_features.weight")[0],
        "MODEL.MTACLIP.PIXEL_DECODER.LAYERS": count(state, r"pixel_decoder\.layers\.(\d+)\..+"),
        "MODEL.MTACLIP.PIXEL_DECODER.FFN_DIM": shape(state, "pixel_decoder.layers.0.ffn.0.weight")[0],
        "MODEL.MTACLIP.DECODER.NUM_QUERIES": shape(state, "decoder.query_content")[0],
        "MODEL.MTACLIP.DECODER.LAYERS": count(state, r"decoder\.layers\.(\d+)\..+"),
        "MODEL.MTACLIP.DECODER.FFN_DIM": shape(state, "decoder.layers.0.ffn.0.weight")[0],
    }


def check_sizes(cfg: CfgNode, state: Mapping[str, Tensor]) -> None:
    """Refuse a config whose sizes are not those of the weights, before a model of any size is built.

    Args:
        cfg: a complete config.
        state: tensors by this project's names.

    Raises:
        ValueError: the message names the key.
    """
    try:
        sizes = sizes_of(state) | (_text_facts(state) if cfg.MODEL.MTACLIP.TEXT.ENABLED else {})
    except ValueError:  # whoever loads them says what is missing
        return
    for key, size in sizes.items():
        asked = value_of(cfg, key)
        if asked != size:
            raise ValueError(f"{cfg.MODEL.WEIGHTS} does not fit the model: {key} is {asked}, but it has {size}.")


def guesses_of(state: Mapping[str, Tensor], classes: Sequence[str] = ()) -> dict[str, Any]:
    """Config keys that shapes leave open.

    Args:
        state: tensors by this project's names.
        classes: class names, where they are known: they decide whether the model is for a dataset of this project;
            else, the number of its classes does.

    Raises:
        ValueError: parts that every model has are missing.
    """
    guesses = {
        "MODEL.PIXEL_MEAN": _IMAGENET_MEAN,
        "MODEL.PIXEL_STD": _IMAGENET_STD,
        "INPUT.FORMAT": "RGB",
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255,
        "SOLVER.LR_SCHEDULER_NAME": "WarmupPolyLR",
        "DATASETS.TRAIN": (),
        "DATASETS.TEST": (),
    }
    if "texts.contexts" not in state:
        guesses |= {"MODEL.MTACLIP.LOSS.MASK_NORMALIZER": "num_masks", "MODEL.MTACLIP.LOSS.SUPERVISE_INITIAL": True}
    number = shape(state, "decoder.class_head.weight")[0] - 1
    return guesses | _clip_guesses(state) | _dataset_guesses(number, classes)


def _dataset_guesses(number: int, classes: Sequence[str]) -> dict[str, Any]:
    if number not in _DATASETS:
        return {}
    vocabulary, dataset, shorter, longer = _DATASETS[number]
    equal = sum(ours == theirs for ours, theirs in zip(load_vocabulary(vocabulary, number), classes, strict=False))
    if classes and equal < _EQUAL_NAMES * number:
        return {}
    return {
        "DATASETS.TEST": (dataset,),
        "MODEL.MTACLIP.TEXT.VOCABULARY": vocabulary,
        "INPUT.MIN_SIZE_TEST": shorter,
        "INPUT.MAX_SIZE_TEST": longer,
    }


def _text_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if "texts.contexts" not in state:
        return {}
    contexts, length, _ = state["texts.contexts"].shape
    positions = shape(state, "texts.encoder.positional_embedding")[0]
    return {
        "MODEL.MTACLIP.TEXT.NUM_CONTEXTS": contexts,
        "MODEL.MTACLIP.TEXT.CONTEXT_LENGTH": length,
        "MODEL.MTACLIP.TEXT.TOKEN_LENGTH": positions - length,
    }


def _backbone_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    if "backbone.stem.conv1.weight" in state:
        return _resnet_facts(state)
    if "backbone.patches.0.weight" in state:
        return _swin_facts(state)
    if any(name.startswith(("backbone.tower.", "backbone.patch_embedding.")) for name in state):
        return {"MODEL.BACKBONE.NAME": "build_clip_backbone"}
    raise ValueError("its image tower is neither a ResNet, a Swin Transformer nor one of CLIP")


def _resnet_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = tuple(count(state, rf"backbone\.{stage}\.(\d+)\..+") for stage in _STAGES)
    known = _RESNET_BLOCKS if "backbone.res2.0.conv3.weight" in state else _RESNET_BASIC_BLOCKS
    depth = next((depth for depth, counts in known.items() if counts == blocks), None)
    if depth is None:
        raise ValueError(f"its ResNet has {blocks} blocks, which Detectron2's has at no depth of {sorted(known)}")
    return {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.OUT_FEATURES": list(_STAGES),
        "MODEL.RESNETS.STEM_OUT_CHANNELS": shape(state, "backbone.stem.conv1.weight")[0],
        "MODEL.RESNETS.WIDTH_PER_GROUP": shape(state, "backbone.res2.0.conv1.weight")[0],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": shape(
            state, f"backbone.res2.0.conv{3 if known is _RESNET_BLOCKS else 2}.weight"
        )[0],
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }


def _swin_facts(state: Mapping[str, Tensor]) -> dict[str, Any]:
    stages = range(len(_STAGES))
    tables = [shape(state, f"backbone.stages.{stage}.0.attn.relative_position_bias_table") for stage in stages]
    return {
        "MODEL.BACKBONE.NAME": "build_swin_backbone",
        "MODEL.SWIN.EMBED_DIM": shape(state, "backbone.patches.0.weight")[0],
        "MODEL.SWIN.DEPTHS": [count(state, rf"backbone\.stages\.{stage}\.(\d+)\..+") for stage in stages],
        "MODEL.SWIN.HEADS": [heads for _, heads in tables],
        "MODEL.SWIN.WINDOW": (math.isqrt(tables[0][0]) + 1) // 2,  # (2 * window - 1) ** 2 relative positions
    }


def _clip_guesses(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tower's name at open_clip, for the towers that released checkpoints have."""
    layers = tuple(count(state, rf"backbone\.tower\.layer{stage}\.(\d+)\..+") for stage in range(1, 5))
    blocks = count(state, r"backbone\.blocks\.(\d+)\..+")
    known = {(3, 4, 6, 3): "RN50-quickgelu", (3, 4, 23, 3): "RN101-quickgelu"}
    name = "ViT-B-16-quickgelu" if blocks == 12 else known.get(layers)
    return {} if name is None else {"MODEL.CLIP.ARCH": name}


def shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Shape of a tensor.

    Raises:
        ValueError: it is not there.
    """
    if name not in state:
        raise ValueError(f"it lacks {name}")
    return tuple(state[name].shape)


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the first group of a pattern has among the names."""
    compiled = re.compile(pattern)
    return len({match[1] for name in state if (match := compiled.fullmatch(name))})
