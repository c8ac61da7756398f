"""What `train_step.py` measures: models with their optimisers, and the images and label maps they all train on.

Letters: B images, H, W their size in pixels, G classes in an image.
"""

import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor, nn

from mtaclip.engine import setup_cfg
from mtaclip.engine.optimizer import build_optimizer
from mtaclip.modeling.build import build_model
from mtaclip.modeling.clip import clip_config
from mtaclip.modeling.performance import speed_up

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MODELS = ("mtaclip", "mask2former", "transformers")
# What ends the name of a model that is measured with another value of a SOLVER key, and key and value.
VARIANTS = {
    ", compiled": ("COMPILE", True),
    ", channels first": ("CHANNELS_LAST", False),
    ", recompute": ("RECOMPUTE", True),
}
REGIONS = 12  # classes drawn into an image; some of them end up nowhere
LARGEST_LABEL = 254  # label maps are uint8, and 255 is ignored
# Pairs of these are the texts of vocabularies of any size; every word is one token of CLIP's.
FIRST = "red blue green white black big small old new round flat open wet dry dark light tall short wide thin hot cold"
FIRST += " soft hard deep high low clean rough sharp"
SECOND = "car house tree road wall door chair table lamp bed boat plane train bus bike dog cat horse bird fish box bag"
SECOND += " book clock sign rock lake field fence floor"

Sample = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """What is varied; everything else comes from the configuration.

    Attributes:
        config: folder and last part of the names of two YAML files, "cityscapes/R50".
        size: (H, W).
        batch: number B of images.
        type: of autocast, or "float32" for none.
        classes: number of classes; None takes the configuration's.
        contexts: number of prompts; None takes the configuration's.
    """

    config: str
    size: tuple[int, int]
    batch: int
    type: str
    classes: int | None = None
    contexts: int | None = None


def known_configs() -> list[str]:
    """Names that `Case.config` can have."""
    files = sorted(CONFIGS.glob("*/mtaclip_*.yaml"))
    return [f"{file.parent.name}/{file.stem.removeprefix('mtaclip_')}" for file in files]


def transformers_problem(config: str) -> str | None:
    """Why Hugging Face's model cannot be measured with a configuration; None if it can."""
    if importlib.util.find_spec("transformers") is None:
        return "the package transformers is not installed (pip install transformers)"
    arch = read_config(Case(config, (64, 64), 1, "float32"), "mtaclip").MODEL.CLIP.ARCH
    if not isinstance(clip_config(arch)["vision_cfg"]["layers"], list):
        return f"the image tower of --config {config} is no ResNet"
    return None


def make_vocabulary(count: int, file: Path) -> None:
    """Write a vocabulary of `count` made-up texts, two words each.

    Raises:
        ValueError: there are not so many pairs.
    """
    texts = [f"{first} {second}" for second in SECOND.split() for first in FIRST.split()]
    if not 2 <= count <= len(texts):
        raise ValueError(f"--growth: classes must be 2 to {len(texts)}, got {count}.")
    file.write_text("\n".join(texts[:count]) + "\n", encoding="utf-8")


def read_config(case: Case, model: str, device: str = "cpu", folder: Path | None = None) -> CfgNode:
    """The configuration of "mtaclip" or "mask2former", with random weights and the case's values.

    Args:
        case: what is measured.
        model: first part of the YAML file's name.
        device: MODEL.DEVICE.
        folder: where a vocabulary is written if the case has classes.
    """
    group, arch = case.config.split("/")
    options: list[Any] = ["MODEL.CLIP.PRETRAINED", "", "MODEL.WEIGHTS", "", "INPUT.CROP.SIZE", list(case.size)]
    options += ["DATASETS.TRAIN", (), "DATASETS.TEST", ()]
    if case.classes is not None:
        file = folder / f"{case.classes}.txt"
        make_vocabulary(case.classes, file)
        options += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", case.classes, "MODEL.MTACLIP.TEXT.VOCABULARY", str(file)]
    if case.contexts is not None:
        options += ["MODEL.MTACLIP.TEXT.NUM_CONTEXTS", case.contexts]
    return setup_cfg(CONFIGS / group / f"{model}_{arch}.yaml", options, device=device)


def make_samples(case: Case, classes: int) -> list[Sample]:
    """Smooth random images and label maps, the same at every call.

    Args:
        case: size and batch.
        classes: number of classes to draw from.

    Returns:
        B dicts of "image", uint8 (3, H, W), and "sem_seg", uint8 (H, W).
    """
    samples = []
    for number in range(case.batch):
        random = torch.Generator().manual_seed(number)
        colours = torch.rand(1, 3, 16, 16, generator=random)
        image = F.interpolate(colours, size=case.size, mode="bicubic").clamp(0, 1)[0]
        grain = torch.randint(0, 16, image.shape, generator=random)
        heights = torch.rand(1, min(REGIONS, classes), 6, 6, generator=random)
        regions = F.interpolate(heights, size=case.size, mode="bicubic")[0].argmax(0)
        chosen = torch.randperm(min(classes, LARGEST_LABEL + 1), generator=random)[:REGIONS]
        samples.append({"image": (image * 239 + grain).byte(), "sem_seg": chosen[regions].byte()})
    return samples


class Trained(ABC):
    """A model, its optimiser, and one step with them.

    Args:
        cfg: sizes, weights of the losses, the optimiser, SOLVER.COMPILE and SOLVER.CHANNELS_LAST.
        dtype: of autocast; float32 for none.
    """

    # Parts by the name they have in a breakdown.
    parts: dict[str, list[nn.Module]]
    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, cfg: CfgNode, dtype: torch.dtype) -> None:
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.dtype = dtype
        self.classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        self.max_norm = cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
        torch.manual_seed(0)
        self.build(cfg)
        self.model.train()

    @abstractmethod
    def build(self, cfg: CfgNode) -> None:
        """Set the attributes of the class."""

    @abstractmethod
    def prepare(self, samples: list[Sample]) -> Any:
        """What a data loader's processes would hand over for these samples."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Loss of what `prepare` gave, copies to the device and normalisation included."""

    def forward(self, batch: Any) -> Tensor:
        """Loss under autocast."""
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.loss(batch)

    def update(self) -> None:
        """Clip the gradients by their norm and update the weights."""
        nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        self.optimizer.step()

    def clear(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, batch: Any) -> None:
        """A whole training step."""
        loss = self.forward(batch)
        self.clear()
        loss.backward()
        self.update()

    def held(self) -> dict[str, float]:
        """Millions of parameters, and MB of weights and the optimiser's state together."""
        state = [t for values in self.optimizer.state.values() for t in values.values() if torch.is_tensor(t)]
        tensors = [*self.model.parameters(), *self.model.buffers(), *state]
        return {
            "parameters_m": round(sum(p.numel() for p in self.model.parameters()) / 1e6, 2),
            "trained_m": round(sum(p.numel() for p in self.model.parameters() if p.requires_grad) / 1e6, 2),
            "held_mb": round(sum(t.numel() * t.element_size() for t in tensors) / 1e6, 1),
        }


class Ours(Trained):
    """The model of a configuration of this project."""

    def build(self, cfg: CfgNode) -> None:
        self.model = build_model(cfg)
        self.optimizer = build_optimizer(cfg, self.model)
        speed_up(self.model, cfg)
        model = self.model
        text = [] if model.texts is None else [model.texts]
        self.parts = {
            "backbone": [model.backbone],
            "pixel decoder": [model.pixel_decoder],
            "decoder": [model.decoder],
            "text": text,
            "criterion": [model.criterion],
        }

    def prepare(self, samples: list[Sample]) -> list[Sample]:
        return samples

    def loss(self, batch: list[Sample]) -> Tensor:
        return sum(self.model(batch).values())


def build_hugging_face(cfg: CfgNode) -> nn.Module:
    """Hugging Face's Mask2Former at the sizes of our baseline's configuration, with random weights, on MODEL.DEVICE."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig
    from transformers.utils import logging as their_logging

    their_logging.set_verbosity_error()  # it warns of every backbone but Swin
    own, vision = cfg.MODEL.MTACLIP, clip_config(cfg.MODEL.CLIP.ARCH)["vision_cfg"]
    backbone = ResNetConfig(
        embedding_size=vision["width"],
        hidden_sizes=[vision["width"] * 2**i for i in range(2, 6)],
        depths=vision["layers"],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=own.HIDDEN_DIM,
        mask_feature_size=own.HIDDEN_DIM,
        hidden_dim=own.HIDDEN_DIM,
        encoder_layers=own.PIXEL_DECODER.LAYERS,
        encoder_feedforward_dim=own.PIXEL_DECODER.FFN_DIM,
        num_attention_heads=own.DECODER.HEADS,
        decoder_layers=own.DECODER.LAYERS + 1,  # theirs counts the prediction of the initial queries
        dim_feedforward=own.DECODER.FFN_DIM,
        num_queries=own.DECODER.NUM_QUERIES,
        class_weight=own.LOSS.CLASS_WEIGHT,
        mask_weight=own.LOSS.MASK_WEIGHT,
        dice_weight=own.LOSS.DICE_WEIGHT,
        no_object_weight=own.LOSS.NO_OBJECT_WEIGHT,
        train_num_points=own.LOSS.NUM_POINTS,
        oversample_ratio=own.LOSS.OVERSAMPLE_RATIO,
        importance_sample_ratio=own.LOSS.IMPORTANCE_SAMPLE_RATIO,
        num_labels=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
    )
    model = Mask2FormerForUniversalSegmentation(config).to(cfg.MODEL.DEVICE)
    pixels, decoder = model.model.pixel_level_module, model.model.transformer_module
    if cfg.SOLVER.CHANNELS_LAST:
        pixels.encoder.to(memory_format=torch.channels_last)
    if cfg.SOLVER.COMPILE:
        for part in (pixels.encoder, pixels.decoder, decoder):
            part.compile()
    return model


class HuggingFace(Trained):
    """Hugging Face's Mask2Former."""

    def build(self, cfg: CfgNode) -> None:
        self.model = build_hugging_face(cfg)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=cfg.SOLVER.BASE_LR, fused=True)
        self.mean, self.std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1)
            for values in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD)
        )
        pixels, decoder = self.model.model.pixel_level_module, self.model.model.transformer_module
        self.parts = {
            "backbone": [pixels.encoder],
            "pixel decoder": [pixels.decoder],
            "decoder": [decoder, self.model.class_predictor],
            "criterion": [self.model.criterion],
        }

    def prepare(self, samples: list[Sample]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        images = torch.stack([sample["image"] for sample in samples])
        labels = [sample["sem_seg"].long().unique() for sample in samples]
        masks = [
            (sample["sem_seg"] == present[:, None, None]).float()
            for sample, present in zip(samples, labels, strict=True)
        ]
        return images, masks, labels

    def loss(self, batch: tuple[Tensor, list[Tensor], list[Tensor]]) -> Tensor:
        images, masks, labels = batch
        pixels = (images.to(self.device, non_blocking=True).float() - self.mean) / self.std
        masks, labels = ([t.to(self.device, non_blocking=True) for t in tensors] for tensors in (masks, labels))
        return self.model(pixel_values=pixels, mask_labels=masks, class_labels=labels).loss


def pinned(batch: Any) -> Any:
    """The same dicts, lists and tuples of tensors in memory from which a GPU copies by itself."""
    if isinstance(batch, dict):
        return {name: pinned(value) for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(pinned(value) for value in batch)
    return batch.pin_memory()


def exists(name: str) -> bool:
    """Whether there is such a variant of a model: Hugging Face's keeps all activations."""
    return name != "transformers, recompute"


def make_model(name: str, case: Case, device: str, folder: Path) -> Trained:
    """Build one of `MODELS`, or a variant of it if its name ends so.

    Args:
        name: of the model.
        case: what is measured.
        device: "cpu" or "cuda".
        folder: where a vocabulary may be written.
    """
    kind, comma, variant = name.partition(",")
    cfg = read_config(case, "mtaclip" if kind == "mtaclip" else "mask2former", device, folder)
    if comma:
        key, value = VARIANTS[comma + variant]
        cfg.defrost()
        cfg.SOLVER[key] = value
    return (HuggingFace if kind == "transformers" else Ours)(cfg, getattr(torch, case.type))
