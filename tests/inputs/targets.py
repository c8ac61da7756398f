"""What reads files of strangers, each from the bytes of one file, for `tests/inputs/fuzz.py`."""

import io
import json
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import mtaclip  # noqa: F401  (before Detectron2: it repairs the 0.6 release)

# isort: split
import numpy as np
import torch

from mtaclip.checkpoint.files import read_content
from mtaclip.checkpoint.inert import read_inert
from mtaclip.checkpoint.loading import read_checkpoint
from mtaclip.conversion.foreign import KINDS, read_foreign
from mtaclip.data.folder import LabelledFolder
from mtaclip.data.image_files import ImageFile, read_image, read_instance_map
from mtaclip.data.labels import read_label_map
from mtaclip.data.vocabulary import load_test_vocabulary, read_classes
from mtaclip.demo.sources import expand_standard_input, find_files
from mtaclip.engine import setup_cfg
from mtaclip.evaluation.comparison import check_comparable, comparison_page, read_scores
from mtaclip.files import output_stems
from mtaclip.modeling.clip import clip_config
from mtaclip.modeling.clip_weights import hugging_face_model, read_clip
from mtaclip.publishing import folder as published
from mtaclip.visualization.curves import read_metrics
from tests.inputs import files
from tests.inputs.cases import Cases
from tests.inputs.sentences import check_sentence


@dataclass(frozen=True)
class Target:
    """Something that reads a file.

    Attributes:
        name: of the file in its folder.
        readings: what reads it, each of them.
        seeds: files that it can read.
        prepare: puts other files into the folder.
        wrap: makes the file's content of the bytes, where these are only a part of it.
    """

    name: str
    readings: tuple[Callable[[Path], object], ...]
    seeds: Callable[[], Iterable[bytes]]
    prepare: Callable[[Path], object] = lambda folder: None
    wrap: Callable[[bytes], bytes] = bytes


def _images() -> list[bytes]:
    made = [files.image(kind, mode) for kind in files.IMAGE_FORMATS for mode in ("L", "RGB", "P", "I;16")]
    return [content for content in made if content is not None]


def _pngs() -> list[bytes]:
    return [files.image("PNG", mode) or b"" for mode in files.IMAGE_MODES[:-1]]


def _with_checksums(content: bytes) -> bytes:
    """A PNG whose checksums are right as far as its chunks can be told apart, so that decoders look further."""
    parts, place = [content[:8]], 8
    while len(content) >= place + 12:
        length = struct.unpack(">I", content[place : place + 4])[0]
        chunk = content[place + 4 : place + 8 + length]
        parts.append(content[place : place + 4] + chunk + struct.pack(">I", zlib.crc32(chunk)))
        place += 12 + length
    return b"".join(parts)


def _archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


_STORAGES = {"version": b"3\n", "byteorder": b"little", **{f"data/{key}": bytes(16) for key in range(4)}}


def _pickled(content: object, save: Callable[[object, BinaryIO], object] = torch.save) -> bytes:
    """The data.pkl of a file, whose tensors have 16 bytes each."""
    file = io.BytesIO()
    save(content, file)
    with zipfile.ZipFile(file) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        return archive.read(name)


def _torch_pickles() -> list[bytes]:
    state = {"a": torch.zeros(4), "b": torch.zeros(2, dtype=torch.int64)}
    others = {"meta": np.float64(3), "names": files.Setting, "config": "SEED: 3\n"}
    return [_pickled({"model": state, **others}), _pickled({"state_dict": state, "iteration": 3}), _pickled(state)]


def _script_pickles() -> list[bytes]:
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False) for _ in range(2)))
    return [_pickled(torch.jit.script(model), torch.jit.save)]


def _foreign_states() -> list[bytes]:
    names = (
        "sem_seg_head.predictor.query_feat.weight",
        "decode_head.query_feat.weight",
        "backbone.layer1.0.conv1.weight",
        "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight",
        "text_model.embeddings.token_embedding.weight",
        "module.texts.contexts",
    )
    return [_pickled({"model": {name: torch.zeros(2, 2)}}) for name in names]


def _as_json(*contents: object) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(content).encode() for content in contents]


def _lines(*names: str) -> Callable[[], list[bytes]]:
    return lambda: ["\n".join(names).encode()]


def _read_folder_of_weights(path: Path) -> object:
    return read_checkpoint(path.parent)


def _write_shard(folder: Path) -> None:
    (folder / "x.bin").write_bytes(files.checkpoints()["torch"])


def _write_published(folder: Path) -> None:
    for name in ("classes.json", "model.safetensors", "vocabulary.txt"):
        (folder / name).write_bytes(b"wall\n")
    (folder / "clip_model.json").write_text(json.dumps(files.CLIP_MODEL))


def _write_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("MODEL: {CLIP: {ARCH: clip_model.json}}\n")
    _write_published(folder)


def _read_scores(path: Path) -> None:
    evaluation = read_scores(path)
    check_comparable([evaluation, evaluation])
    comparison_page(["a", "b"], [evaluation, evaluation]).encode()


def _list_names(path: Path) -> None:
    """Files of the names that the lines are, found as a dataset's and as a demo's."""
    folder = path.parent / "names"
    folder.mkdir(exist_ok=True)
    lines = path.read_bytes().decode("utf-8", "surrogateescape").splitlines()[:20]
    for line in lines:
        name = line.replace("/", "_").replace("\0", "_")[:50]
        if name not in ("", ".", ".."):
            (folder / name).write_bytes(b"")
    dataset = LabelledFolder(folder, folder, label_suffix=f"{lines[0]}.png" if lines else "")
    output_stems([file for record in dataset.records() for file in (Path(record["file_name"]),)])
    records = dataset.records()
    dataset.lonely_labels(records)
    dataset.shared_labels(records)


def _find_inputs(path: Path) -> None:
    lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    inputs = [line for line in expand_standard_input(["-"], lines) if not line.startswith("/") and ".." not in line]
    find_files([str(path.parent / line) for line in inputs], path.parent / "output")


_HUGGING_FACE = {"model_type": "clip", "vision_config": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "gelu"}}
_METRICS = b'{"iteration": 1, "lr": 0.5, "loss_ce": 2}\n{"iteration": 2, "lr": 0.25}\n'

TARGETS = {
    "image": Target("image.png", (lambda path: ImageFile(path).top(1), read_image), _images),
    "label-map": Target(
        "label.png",
        (
            read_label_map,
            lambda path: read_label_map(path, "ade20k", 150),
            read_instance_map,
        ),
        _images,
    ),
    "png": Target("image.png", (read_image, read_label_map, read_instance_map), _pngs, wrap=_with_checksums),
    "vocabulary": Target(
        "classes.txt",
        (read_classes, lambda path: load_test_vocabulary(path.read_bytes().decode("utf-8", "surrogateescape"))),
        _lines("# classes", "wall", "sky; heaven"),
    ),
    "config": Target("config.yaml", (lambda path: setup_cfg(path, device="cpu"),), files.configs),
    "checkpoint": Target(
        "weights.pth", (read_content, read_inert, read_checkpoint), lambda: files.checkpoints().values()
    ),
    "torch": Target(
        "weights.pth",
        (read_content, read_inert, read_checkpoint),
        _torch_pickles,
        wrap=lambda content: _archive({"data.pkl": content, **_STORAGES}),
    ),
    "torchscript": Target(
        "weights.pt",
        (read_checkpoint, read_clip),
        _script_pickles,
        wrap=lambda content: _archive({"data.pkl": content, "constants.pkl": b"\x80\x02).", **_STORAGES}),
    ),
    "foreign": Target(
        "weights.pth",
        tuple(lambda path, kind=kind: read_foreign(path, kind) for kind in KINDS if kind != "maskformer-hf"),
        _foreign_states,
        wrap=lambda content: _archive({"data.pkl": content, **_STORAGES}),
    ),
    "index": Target(
        "model.safetensors.index.json",
        (_read_folder_of_weights,),
        _as_json({"weight_map": {"a": "x.bin"}}),
        _write_shard,
    ),
    "scores": Target("scores_ade20k.json", (_read_scores,), _as_json(files.SCORES)),
    "metrics": Target("metrics.json", (read_metrics,), lambda: [_METRICS]),
    "classes": Target("classes.json", (lambda path: published.read_classes(path.parent, 2),), _as_json(files.CLASSES)),
    "published": Target(
        "config.yaml",
        (lambda path: published.read_folder(path.parent),),
        _as_json(files.PUBLISHED, {"MODEL": {"CLIP": {"ARCH": "clip_model.json"}}}),
        _write_published,
    ),
    "clip-model": Target(
        "clip_model.json",
        (lambda path: clip_config(str(path)), lambda path: published.read_folder(path.parent)),
        _as_json(files.CLIP_MODEL),
        _write_config,
    ),
    "hugging-face": Target("config.json", (hugging_face_model,), _as_json(_HUGGING_FACE)),
    "names": Target("names.txt", (_list_names, _find_inputs), _lines("a.png", "b.JPG", ".c.png", "*.png", "[", "**")),
}


def read_all(target: Target, content: bytes, folder: Path, cases: Cases) -> None:
    """Hand an input to all that reads it, which may raise what a user is told: an OSError or ValueError, one sentence.

    Args:
        target: what reads.
        content: the input.
        folder: made anew for each reading.
        cases: counts the readings.
    """
    for reading in target.readings:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        target.prepare(folder)
        path = folder / target.name
        path.write_bytes(target.wrap(content))
        try:
            with cases:
                reading(path)
        except (ValueError, OSError) as error:
            check_sentence(error)
