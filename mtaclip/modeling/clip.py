"""Building open_clip's towers from the configuration."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip
from torch import nn

_PACKAGED_CONFIGS = Path(__file__).parent / "clip_configs"


def build_clip(arch: str, pretrained: str = "") -> nn.Module:
    """An open_clip CLIP model in float32 on the CPU.

    Args:
        arch: name of an open_clip model ("RN50-quickgelu"), of a model in `modeling/clip_configs/`
            ("mtaclip-tiny"), or the path of an open_clip model-config JSON file.
        pretrained: open_clip weight tag or path of a weight file; "" leaves the weights random.

    Raises:
        ValueError: unknown model or weights, or weights trained with another activation than the model's.
    """
    name = _register(arch)
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if tag and tag.get("quick_gelu", False) != clip_config(arch).get("quick_gelu", False):
        raise ValueError(
            f"MODEL.CLIP.ARCH {arch!r} and MODEL.CLIP.PRETRAINED {pretrained!r} use different activations: "
            'take the "-quickgelu" name of the model for weights trained with QuickGELU, the plain name for others.'
        )
    try:
        with _quiet(not pretrained):
            return open_clip.create_model(name, pretrained=pretrained or None, precision="fp32")
    except RuntimeError as error:
        raise ValueError(
            f"MODEL.CLIP.PRETRAINED: cannot load {pretrained!r} into {arch!r} ({str(error).splitlines()[0]}); "
            f"tags known to open_clip: {open_clip.list_pretrained_tags_by_model(name)}; a path of a weight file "
            'works too, and "" starts from random weights.'
        ) from error


@contextmanager
def _quiet(active: bool) -> Iterator[None]:
    """Keep open_clip from warning of random weights where they are asked for."""

    def accept(record: logging.LogRecord) -> bool:
        return "No pretrained weights loaded" not in record.getMessage()

    root = logging.getLogger()
    if active:
        root.addFilter(accept)
    try:
        yield
    finally:
        root.removeFilter(accept)


def clip_config(arch: str) -> dict:
    """The open_clip model config of `arch`: embed_dim, vision_cfg, text_cfg.

    Raises:
        ValueError: the name is unknown or the file is missing.
    """
    return open_clip.get_model_config(_register(arch))


def _register(arch: str) -> str:
    """Make `arch` known to open_clip, in place of another of its name, and return its name there."""
    path = Path(arch) if arch.endswith(".json") else _PACKAGED_CONFIGS / f"{arch}.json"
    if path.is_file():
        if open_clip.get_model_config(path.stem) != json.loads(path.read_text(encoding="utf-8")):
            open_clip.add_model_config(path)
        return path.stem
    if arch in open_clip.list_models():
        return arch
    raise ValueError(
        f"MODEL.CLIP.ARCH: {arch!r} is neither a model-config file nor a model of open_clip; packaged ones are "
        f"{sorted(p.stem for p in _PACKAGED_CONFIGS.glob('*.json'))}, open_clip.list_models() names the others."
    )
