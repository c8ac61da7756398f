"""Building open_clip's towers from the configuration."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from mtaclip.checkpoint.files import read_settings
from mtaclip.limits import MOST_LAYERS
from mtaclip.modeling.clip_download import find_pretrained
from mtaclip.modeling.clip_weights import ClipWeights, Tower, load_clip, read_clip
from mtaclip.problems import first_line, is_out_of_memory

_PACKAGED_CONFIGS = Path(__file__).parent / "clip_configs"
# What open_clip raises for settings of other types and values than it expects.
_NO_MODEL = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
MODEL_PARTS = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}


def build_clip(
    arch: str,
    pretrained: str = "",
    *,
    tower: Tower | None = None,
    cache_dir: str = "",
    allow_pickle: bool = False,
) -> nn.Module:
    """An open_clip CLIP model in float32 on the CPU.

    Args:
        arch: name of an open_clip model ("RN50-quickgelu"), of a model in `modeling/clip_configs/`
            ("mtaclip-tiny"), or the path of an open_clip model-config JSON file.
        pretrained: open_clip weight tag or a path, see `read_clip`; "" leaves the weights random.
        tower: the one whose weights are needed and loaded; None needs both.
        cache_dir: of downloaded weights; "" is the libraries' own.
        allow_pickle: see `mtaclip.checkpoint.files.read_content`.

    Raises:
        FileNotFoundError: the weights of a tag are not there and cannot be downloaded.
        ValueError: unknown model or weights, one that open_clip cannot build, or weights of another model or
            activation.
    """
    if not pretrained:
        return _random_clip(arch)
    path = _weight_file(arch, pretrained, cache_dir)
    weights = read_clip(path, allow_pickle=allow_pickle)
    model = _random_clip(arch)
    _check_weights(arch, pretrained, weights, tower)
    load_clip(model, weights, str(path), arch, tower)
    return model


def _random_clip(arch: str) -> nn.Module:
    name = _register(arch)
    try:
        with _no_warning():
            return open_clip.create_model(name, precision="fp32")
    except _NO_MODEL as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"MODEL.CLIP.ARCH: open_clip cannot build {arch!r} ({type(error).__name__}: {first_line(error)})."
        ) from error


def _weight_file(arch: str, pretrained: str, cache_dir: str) -> Path:
    """The file or folder that MODEL.CLIP.PRETRAINED means."""
    name = _register(arch)
    tag = open_clip.get_pretrained_cfg(name, pretrained)
    if tag:
        _check_activation(arch, pretrained, bool(tag.get("quick_gelu", False)))
        return find_pretrained(name, pretrained, cache_dir)
    if not Path(pretrained).exists():
        raise ValueError(
            f"MODEL.CLIP.PRETRAINED: {pretrained!r} is neither a file or folder nor a tag that open_clip knows for "
            f'{arch!r}: {open_clip.list_pretrained_tags_by_model(name)}; "" starts from random weights.'
        )
    return Path(pretrained)


def _check_weights(arch: str, pretrained: str, weights: ClipWeights, tower: Tower | None) -> None:
    """Refuse weights of a model whose names and shapes are those of `arch`, but which computes something else."""
    if weights.quick_gelu is not None and not open_clip.get_pretrained_cfg(_register(arch), pretrained):
        _check_activation(arch, pretrained, weights.quick_gelu)
    config = clip_config(arch)
    for name, heads in weights.heads.items():
        if tower in (None, name) and heads != _heads(config, name):
            raise ValueError(
                f"MODEL.CLIP.PRETRAINED: the {name} tower of {pretrained} has {heads} attention heads, that of "
                f"MODEL.CLIP.ARCH {arch!r} {_heads(config, name)}."
            )


def clip_from_config(cfg: CfgNode, tower: Tower) -> nn.Module:
    """The CLIP model of MODEL.CLIP with the pretrained weights of one tower."""
    clip = cfg.MODEL.CLIP
    return build_clip(
        clip.ARCH,
        clip.PRETRAINED,
        tower=tower,
        cache_dir=clip.CACHE_DIR,
        allow_pickle=cfg.MODEL.WEIGHTS_ALLOW_PICKLE,
    )


def fetch_pretrained(cfg: CfgNode) -> None:
    """Find the weights of MODEL.CLIP.PRETRAINED in one process of each machine, where a tag may have to be downloaded.

    All processes call it; the others wait.

    Raises:
        ValueError: in every process, if one did not find them or they do not suit MODEL.CLIP.ARCH.
    """
    clip = cfg.MODEL.CLIP
    problem = ""
    if comm.get_local_rank() == 0 and clip.PRETRAINED:
        try:
            _weight_file(clip.ARCH, clip.PRETRAINED, clip.CACHE_DIR)
        except (FileNotFoundError, ValueError) as error:
            problem = str(error)
    problems = [other for other in comm.all_gather(problem) if other]
    if problems:
        raise ValueError(problems[0])


def _check_activation(arch: str, pretrained: str, quick_gelu: bool) -> None:
    if quick_gelu != clip_config(arch).get("quick_gelu", False):
        raise ValueError(
            f"MODEL.CLIP.ARCH {arch!r} and MODEL.CLIP.PRETRAINED {pretrained!r} use different activations: "
            'take the "-quickgelu" name of the model for weights trained with QuickGELU, the plain name for others.'
        )


def _heads(config: dict, tower: Tower) -> int:
    """Attention heads of a tower of an open_clip model config."""
    if tower == "text":
        return config["text_cfg"].get("heads", 8)
    return config["vision_cfg"].get("width", 768) // config["vision_cfg"].get("head_width", 64)


@contextmanager
def _no_warning() -> Iterator[None]:
    """Keep open_clip from warning of random weights: they are asked for, or replaced."""

    def accept(record: logging.LogRecord) -> bool:
        return "No pretrained weights loaded" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(accept)
    try:
        yield
    finally:
        root.removeFilter(accept)


def clip_config(arch: str) -> dict:
    """The open_clip model config of `arch`: embed_dim, vision_cfg, text_cfg.

    Raises:
        ValueError: the name is unknown, or the file is missing, damaged or no model config.
    """
    return open_clip.get_model_config(_register(arch))


def missing_parts(settings: Mapping[str, Any]) -> list[str]:
    """The keys that make `settings` a model config of open_clip and are not there, or of another type."""
    return [key for key, kind in MODEL_PARTS.items() if not isinstance(settings.get(key), kind)]


def _check_layers(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse numbers of layers that nobody has built: one after the other they would take hours."""
    for part in ("vision_cfg", "text_cfg"):
        layers = settings[part].get("layers")
        for number in layers if isinstance(layers, list) else [layers]:
            if isinstance(number, int | float) and number > MOST_LAYERS:
                raise ValueError(
                    f"MODEL.CLIP.ARCH: {path} asks for {number} layers, the most allowed is {MOST_LAYERS}."
                )


def _register(arch: str) -> str:
    """Make `arch` known to open_clip, in place of another of its name, and return its name there."""
    path = Path(arch) if arch.endswith(".json") else _PACKAGED_CONFIGS / f"{arch}.json"
    if path.is_file():
        settings = read_settings(path)
        wrong = missing_parts(settings)
        if wrong:
            raise ValueError(
                f"MODEL.CLIP.ARCH: {path} is no model config of open_clip, it has no {' and no '.join(wrong)}."
            )
        _check_layers(settings, path)
        if open_clip.get_model_config(path.stem) != settings:
            open_clip.add_model_config(path)
        return path.stem
    if arch in open_clip.list_models():
        return arch
    raise ValueError(
        f"MODEL.CLIP.ARCH: {arch!r} is neither a model-config file nor a model of open_clip; packaged ones are "
        f"{sorted(p.stem for p in _PACKAGED_CONFIGS.glob('*.json'))}, open_clip.list_models() names the others."
    )
