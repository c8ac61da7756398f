import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from mtaclip.checkpoint import Checkpointer
from mtaclip.engine import Trainer, setup_cfg
from mtaclip.modeling.build import build_model
from mtaclip.modeling.clip import clip_config
from mtaclip.predictor import Predictor
from mtaclip.problems import advice
from mtaclip.publishing.folder import write_folder
from mtaclip.visualization import Palette
from projects.MTACLIP import app, demo, publish

ROOT = Path(__file__).resolve().parents[2]
DATASET = "street_scenes_of_this_test"
NAMES = ("road", "tree & bush", "Straße")
COLOURS = [[1, 2, 3], [4, 5, 6], [250, 251, 252]]
VOCABULARY = "# texts of the test\nroad\ntree\ncobbled street\n"
SMALL = ["MODEL.MTACLIP.DECODER.NUM_QUERIES", "8", "INPUT.MIN_SIZE_TEST", "48", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, config_path) -> Iterator[dict[str, Path]]:
    """Checkpoints of two small random models for a dataset of this process alone, each with files of its own."""
    DatasetCatalog.register(DATASET, list)
    MetadataCatalog.get(DATASET).set(
        stuff_classes=list(NAMES), stuff_colors=COLOURS, ignore_label=255, evaluator_type="mtaclip_sem_seg"
    )
    folder = tmp_path_factory.mktemp("private_place")
    (folder / "texts.txt").write_text(VOCABULARY)
    (folder / "my_tower.json").write_text(json.dumps(clip_config("mtaclip-tiny")))
    own = ["MODEL.MTACLIP.TEXT.VOCABULARY", str(folder / "texts.txt"), "OUTPUT_DIR", str(folder / "out")]
    own += ["DATASETS.TRAIN", f"('{DATASET}',)", "DATASETS.TEST", f"('{DATASET}',)"]
    own += ["MODEL.CLIP.ARCH", str(folder / "my_tower.json")]
    files = {}
    for method in ("mtaclip", "mask2former"):
        cfg = setup_cfg(config_path(f"miniature/{method}_tiny.yaml"), [*SMALL, *own], device="cpu")
        torch.manual_seed(0)
        last = cfg.SOLVER.MAX_ITER - 1
        Checkpointer(build_model(cfg), str(folder), config=cfg).save(method, iteration=last)
        files[method] = folder / f"{method}.pth"
    yield files
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


@pytest.fixture(scope="module")
def predictor(runs) -> Predictor:
    """MTA-CLIP, from its checkpoint."""
    return Predictor.from_checkpoint(runs["mtaclip"], "cpu")


@pytest.fixture(scope="module")
def published(predictor, tmp_path_factory) -> Path:
    """The same as a published folder, not to be changed."""
    folder = tmp_path_factory.mktemp("published") / "streets"
    predictor.save_pretrained(folder)
    return folder


@pytest.fixture
def copied(published, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(published, tmp_path / "copied"))


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


ELSEWHERE = """
import json, socket, sys

def refuse(*_):
    raise AssertionError("a published model asked the network")

socket.socket.connect = socket.getaddrinfo = refuse
import mtaclip
import numpy as np, torch
from mtaclip.predictor import Predictor

for folder in sys.argv[1:]:
    predictor = Predictor.from_pretrained(folder, "cpu")
    prediction = predictor(np.load("picture.npy"), scores=True)
    result = {"labels": torch.from_numpy(prediction.labels), "scores": prediction.scores}
    result |= {"names": predictor.class_names, "colours": predictor.palette.colours.tolist()}
    torch.save(result | {"state": dict(predictor.model.state_dict())}, f"{folder}.pt")
"""


def test_another_process_without_dataset_and_network_predicts_the_same_bits(runs, tmp_path):
    np.save(tmp_path / "picture.npy", picture())
    predictors = {method: Predictor.from_checkpoint(file, "cpu") for method, file in runs.items()}
    for method, here in predictors.items():
        assert any(not tensor.is_contiguous() for tensor in here.model.state_dict().values())  # channels last
        here.save_pretrained(tmp_path / method)
    environment = {key: value for key, value in os.environ.items() if key != "DETECTRON2_DATASETS"}
    # Sums are added up in another order by another number of threads.
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", ELSEWHERE, *predictors]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    for method, here in predictors.items():
        expected = here(picture(), scores=True)
        found = torch.load(tmp_path / f"{method}.pt", weights_only=True)
        assert np.array_equal(found["labels"].numpy(), expected.labels)
        assert torch.equal(found["scores"], expected.scores)
        assert (found["names"], found["colours"]) == (NAMES, COLOURS)
        stored = load_file(tmp_path / method / "model.safetensors")
        for state in (found["state"], stored):
            assert state.keys() == here.model.state_dict().keys()
            assert all(torch.equal(state[key], tensor) for key, tensor in here.model.state_dict().items())


def test_a_published_folder_holds_what_it_needs_and_nothing_of_this_machine(published, runs):
    assert sorted(path.name for path in published.iterdir()) == [
        "README.md",
        "classes.json",
        "clip_model.json",
        "config.yaml",
        "model.safetensors",
        "vocabulary.txt",
    ]
    assert (published / "vocabulary.txt").read_text() == VOCABULARY
    for file in published.iterdir():
        assert str(runs["mtaclip"].parent).encode() not in file.read_bytes(), file
        assert file.stat().st_mode & 0o777 == (published / "config.yaml").stat().st_mode & 0o777
    config = yaml.safe_load((published / "config.yaml").read_text())
    assert config["MODEL"]["WEIGHTS"] == config["MODEL"]["CLIP"]["PRETRAINED"] == ""
    assert config["DATASETS"]["TRAIN"] == config["DATASETS"]["TEST"] == []
    assert config["INPUT"]["MIN_SIZE_TEST"] == 48


def test_published_once_more_it_is_the_same(published, tmp_path):
    Predictor.from_pretrained(published, "cpu").save_pretrained(tmp_path / "streets")
    for file in published.iterdir():
        if file.name != "README.md":  # the name of the dataset is not known any more
            assert (tmp_path / "streets" / file.name).read_bytes() == file.read_bytes(), file.name


def test_models_of_this_project_keep_their_datasets(tmp_path, config_path):
    opts = ["MODEL.WEIGHTS", str(tmp_path / "m.pth")]
    cfg = setup_cfg(config_path("miniature/mask2former_tiny.yaml"), opts, device="cpu")
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "m.pth")
    Predictor(cfg).save_pretrained(tmp_path / "published")
    loaded = Predictor.from_pretrained(tmp_path / "published", "cpu", ["TEST.AUG.ENABLED", "True"])
    assert loaded.cfg.DATASETS.TEST == ("cityscapes_sem_seg_val",)
    assert loaded.cfg.TEST.AUG.ENABLED and loaded.class_names[0] == "road"
    assert not (tmp_path / "published" / "vocabulary.txt").exists()


def test_a_model_of_a_folder_of_ones_own_takes_its_names_along(shapes, tmp_path, config_path):
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    (folder / "classes.txt").write_text("table; desk\ndisc\nsquare\ntriangle\n")
    opts = ["DATASETS.FOLDER.ROOT", str(folder), "MODEL.WEIGHTS", str(tmp_path / "m.pth")]
    cfg = setup_cfg(config_path("custom/mtaclip_tiny.yaml"), opts, device="cpu")
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "m.pth")
    predictor = Predictor(cfg)
    predictor.save_pretrained(tmp_path / "published")
    shutil.rmtree(folder)
    loaded = Predictor.from_pretrained(tmp_path / "published", "cpu")
    assert loaded.class_names == ("table", "disc", "square", "triangle")
    assert loaded.cfg.DATASETS.FOLDER.ROOT == "" and loaded.cfg.DATASETS.FOLDER.NAMES == ()
    assert torch.equal(loaded(picture(), scores=True).scores, predictor(picture(), scores=True).scores)


def test_a_published_model_may_be_asked_for_other_classes(published, tmp_path):
    opts = ["TEST.VOCABULARY", "'cobbled street; puddle; tree; road'", "TEST.CLASSIFIER", "text"]
    asked = Predictor.from_pretrained(published, "cpu", opts)
    assert asked.class_names == ("cobbled street", "puddle", "tree", "road")
    assert asked.palette.colours[3].tolist() == COLOURS[0]
    assert asked(picture()).labels.max() < 4
    with pytest.raises(ValueError, match=r"TEST\.VOCABULARY is for whoever uses the model"):
        asked.save_pretrained(tmp_path / "again")


def test_tensors_of_shared_memory_and_any_layout_are_written(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"base": base, "same": base, "part": base[1:], "turned": base.t()}
    write_folder(tmp_path / "x", state, {})
    found = load_file(tmp_path / "x" / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_two_published_models_with_towers_of_their_own_do_not_get_mixed_up(copied, published):
    tower = json.loads((copied / "clip_model.json").read_text())
    tower["vision_cfg"]["width"] *= 2
    (copied / "clip_model.json").write_text(json.dumps(tower))
    Predictor.from_pretrained(published, "cpu")
    with pytest.raises(ValueError, match="of another shape"):
        Predictor.from_pretrained(copied, "cpu")
    Predictor.from_pretrained(published, "cpu")


def edit(name: str, old: str, new: str, folder: Path) -> None:
    """Replace a part of a file of a published folder."""
    text = (folder / name).read_text()
    assert re.search(old, text), old
    (folder / name).write_text(re.sub(old, lambda _: new, text, count=1))


def truncate(name: str, size: int, folder: Path) -> None:
    os.truncate(folder / name, size)


def write(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content)


set_vocabulary = partial(partial, edit, "config.yaml", r"VOCABULARY: \S+")
set_arch = partial(partial, edit, "config.yaml", r"ARCH: \S+")
ALIASES = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"holds no model\.safetensors"),
    "weights renamed": (
        lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors"),
        r"holds no model\.safetensors; copy or download the whole folder",
    ),
    "no config": (lambda folder: (folder / "config.yaml").unlink(), r"holds no config\.yaml"),
    "no classes": (lambda folder: (folder / "classes.json").unlink(), r"holds no classes\.json"),
    "no vocabulary": (lambda folder: (folder / "vocabulary.txt").unlink(), r"holds no vocabulary\.txt"),
    "no tower": (lambda folder: (folder / "clip_model.json").unlink(), r"holds no clip_model\.json"),
    "weights cut off": (
        partial(truncate, "model.safetensors", 100_000),
        r"model\.safetensors: .*damaged or incomplete",
    ),
    "weights empty": (partial(truncate, "model.safetensors", 0), r"model\.safetensors: .*it is empty"),
    "config empty": (partial(truncate, "config.yaml", 0), r"config\.yaml: not the config of a published model"),
    "config cut off": (partial(edit, "config.yaml", r"MODEL:", "MODEL: ["), r"config\.yaml: .*not plain YAML"),
    "config of bytes": (lambda folder: (folder / "config.yaml").write_bytes(b"\xff\xfe"), r"config\.yaml: not UTF-8"),
    "config huge": (partial(write, "config.yaml", "#" * 2_000_000), r"config\.yaml: 2000000 bytes are more than"),
    "code in config": (
        partial(write, "config.yaml", "VERSION: !!python/object/apply:os.system ['touch here']\n"),
        r"config\.yaml: .*not plain YAML .*python/object/apply",
    ),
    "aliases": (partial(write, "config.yaml", ALIASES), r"config\.yaml: .*it has 16 YAML aliases, 0 are"),
    "deep config": (partial(write, "config.yaml", "[" * 1200), r"config\.yaml: not .*nested too deeply"),
    "base": (partial(write, "config.yaml", "_BASE_: /etc/passwd\n"), r"config\.yaml: not the config"),
    "unknown key": (partial(edit, "config.yaml", "NUM_CLASSES:", "NUMBER:"), r"config\.yaml: .*NUMBER"),
    "wrong type": (
        partial(edit, "config.yaml", r"NUM_QUERIES: 8", "NUM_QUERIES: many"),
        r"config\.yaml: .*NUM_QUERIES",
    ),
    "no such model": (
        partial(edit, "config.yaml", "META_ARCHITECTURE: MTACLIP", "META_ARCHITECTURE: X"),
        "can be built",
    ),
    "no width": (partial(edit, "config.yaml", "HIDDEN_DIM: 64", "HIDDEN_DIM: -64"), "HIDDEN_DIM is -64, but it has 64"),
    "countless layers": (
        partial(edit, "config.yaml", r"LAYERS: \d+", "LAYERS: 1000000"),
        r"config\.yaml: .*MODEL\.MTACLIP\..*LAYERS is 1000000, the most that is allowed is 256",
    ),
    "many contexts": (
        partial(edit, "config.yaml", r"NUM_CONTEXTS: \d+", "NUM_CONTEXTS: 4000"),
        r"model\.safetensors does not fit the model: .*NUM_CONTEXTS is 4000, but it has",
    ),
    "no mean": (
        partial(edit, "config.yaml", r"PIXEL_MEAN:\n(  - .*\n)+", "PIXEL_MEAN: []\n"),
        "PIXEL_MEAN .* 3 values",
    ),
    "texts elsewhere": (set_vocabulary("VOCABULARY: ../texts.txt"), r"VOCABULARY is '\.\./texts\.txt', but .* no file"),
    "texts of the system": (set_vocabulary("VOCABULARY: /etc/passwd"), r"VOCABULARY is '/etc/passwd', but"),
    "tower elsewhere": (set_arch("ARCH: ../tower.json"), r"ARCH is '\.\./tower\.json', but"),
    "tower without ending": (set_arch("ARCH: ../tower"), r"ARCH is '\.\./tower', but"),
    "unknown tower": (set_arch("ARCH: RN51"), r"ARCH: 'RN51' is neither"),
    "odd tower": (partial(write, "clip_model.json", "[]"), r"clip_model\.json: not a model config of open_clip"),
    "half a tower": (partial(edit, "clip_model.json", '"embed_dim"', '"dim"'), r"clip_model\.json: not a model config"),
    "tower of the network": (
        partial(edit, "clip_model.json", '"text_cfg": {', '"text_cfg": {"hf_model_name": "some/model", '),
        r"clip_model\.json: hf_model_name names a model of another library",
    ),
    "fewer texts": (partial(write, "vocabulary.txt", "road\ntree\n"), r"has 2 class texts but the config has 3"),
    "fewer names": (
        partial(write, "classes.json", '{"classes": [{"name": "a", "colour": [1, 2, 3]}]}'),
        r"classes\.json: 1 classes are named, but the model has 3",
    ),
    "classes cut off": (partial(truncate, "classes.json", 20), r"classes\.json: damaged"),
    "classes of nothing": (partial(write, "classes.json", '{"classes": []}'), r"classes\.json: damaged"),
    "odd colours": (partial(edit, "classes.json", r"250", "256"), r"classes\.json: damaged"),
    "odd names": (partial(edit, "classes.json", r'"road"', "7"), r"classes\.json: damaged"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_folder_that_is_damaged_or_hostile_is_one_sentence(copied, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    damage, sentence = BROKEN[kind]
    damage(copied)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        Predictor.from_pretrained(copied, "cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "here").exists()


def test_a_lack_of_memory_is_not_the_configs_fault(copied):
    edit("clip_model.json", r'"vocab_size": \d+', '"vocab_size": 10000000000000', copied)
    with pytest.raises(RuntimeError, match="allocate memory") as caught:
        Predictor.from_pretrained(copied, "cpu")
    assert "the memory does not suffice" in advice(caught.value)


def test_options_name_neither_weights_nor_what_starts_anew(published):
    assert Predictor.from_pretrained(published, opts=["MODEL.DEVICE", "cpu"]).cfg.MODEL.DEVICE == "cpu"
    with pytest.raises(ValueError, match=r"opts: MODEL\.WEIGHTS is 'x\.pth', but this model has its own"):
        Predictor.from_pretrained(published, "cpu", ["MODEL.WEIGHTS", "x.pth"])
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS_REINIT"):
        Predictor.from_pretrained(published, "cpu", ["MODEL.WEIGHTS_REINIT", "('text',)"])
    with pytest.raises(ValueError, match=rf"a published model or a part of one: name its folder, {published}"):
        Predictor.from_checkpoint(published / "model.safetensors", "cpu")


def test_a_config_from_elsewhere_says_nothing_about_this_machines_files(copied):
    edit("config.yaml", r"OUTPUT_DIR: \S+", "OUTPUT_DIR: /somewhere", copied)
    edit("config.yaml", r"CACHE_DIR: \S+", "CACHE_DIR: ~/secret", copied)
    edit("config.yaml", r"NO_OBJECT: \S+", "NO_OBJECT: not/there", copied)
    edit("config.yaml", r"  WEIGHTS: ''", "  WEIGHTS: /somewhere/model.pth", copied)
    edit("config.yaml", r"  TRAIN: \[\]", "  TRAIN: [another_dataset]", copied)
    cfg = Predictor.from_pretrained(copied, "cpu").cfg
    assert cfg.OUTPUT_DIR == "./output" and cfg.DATASETS.FOLDER.IMAGES == "images/{split}"
    assert cfg.MODEL.CLIP.CACHE_DIR == cfg.MODEL.MTACLIP.TEXT.NO_OBJECT == ""
    assert str(copied / "model.safetensors") == cfg.MODEL.WEIGHTS
    assert cfg.DATASETS.TRAIN == ()


@pytest.mark.parametrize(
    ("opts", "sentence"), [(["TEST.CLASSIFIER", "best"], "TEST.CLASSIFIER"), (["TEST.NO", "1"], "opts: .*TEST.NO")]
)
def test_wrong_options_are_one_sentence(published, opts, sentence):
    with pytest.raises(ValueError, match=sentence):
        Predictor.from_pretrained(published, "cpu", opts)


def test_other_folders_are_never_replaced_and_published_ones_on_demand(predictor, copied, tmp_path):
    before = (copied / "classes.json").read_bytes()
    palette = Palette(("a", "b", "c"), np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match="holds a published model: .*--overwrite"):
        predictor.save_pretrained(copied, palette=palette)
    assert (copied / "classes.json").read_bytes() == before
    predictor.save_pretrained(copied, palette=palette, overwrite=True)
    assert Predictor.from_pretrained(copied, "cpu").class_names == ("a", "b", "c")
    (copied / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds 'thesis.tex', which is not of a published model"):
        predictor.save_pretrained(copied, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        predictor.save_pretrained(copied / "thesis.tex")
    with pytest.raises(OSError, match="not written"):
        predictor.save_pretrained(copied / "thesis.tex" / "folder")
    with pytest.raises(ValueError, match="2 classes are named, but the model has 3"):
        predictor.save_pretrained(tmp_path / "new", palette=Palette(("a", "b"), np.zeros((2, 3), np.uint8)))
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").touch()
    with pytest.raises(ValueError, match="holds 'README.md', which is not of a published model"):
        predictor.save_pretrained(tmp_path / "project", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copied", "project"]


def test_a_full_disk_leaves_nothing_new_and_the_old_as_it_was(predictor, copied, tmp_path):
    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # bytes of a file
    try:
        for folder in (tmp_path / "new", copied):
            with pytest.raises(OSError, match=f"{folder}: not written: File too large"):
                predictor.save_pretrained(folder, overwrite=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["copied"]
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before


def test_programs_take_a_published_model(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture()).save("street.png")
    opts = ["MODEL.DEVICE", "cpu"]
    cfg = setup_cfg(published / "config.yaml", opts)
    assert str(published / "model.safetensors") == cfg.MODEL.WEIGHTS
    assert setup_cfg(published / "config.yaml", ["MODEL.WEIGHTS", "other.pth"]).MODEL.WEIGHTS == "other.pth"
    expected = Predictor(cfg)(picture()).labels
    command = ["--config-file", str(published / "config.yaml"), "--input", "street.png", "--output", "out"]
    assert demo.main([*command, "--classes", "Straße, road, tree & bush", "--save", "ids", "--opts", *opts]) == 0
    assert np.array_equal(np.asarray(Image.open("out/street_ids.png")), expected)
    models = app.load_models(app.make_parser().parse_args(["--checkpoint", str(published), "--device", "cpu"]))
    viewer = models.viewer(published)
    assert viewer.palette.names == NAMES and np.array_equal(viewer.look(picture()).labels, expected)


def test_publishing_a_checkpoint_by_a_program(runs, tmp_path):
    shutil.copy(runs["mtaclip"], tmp_path / "model_final.pth")
    (tmp_path / "names.txt").write_text("road\ngreen\nstreet\n")
    command = [sys.executable, ROOT / "projects/MTACLIP/publish.py", "--checkpoint", "model_final.pth"]
    command += ["--output", "a/streets", "--class-names", "names.txt", "--license", "cc-by-4.0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert Predictor.from_pretrained(tmp_path / "a/streets", "cpu").class_names == ("road", "green", "street")
    card = ModelCard.load(tmp_path / "a/streets/README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "mtaclip")
    assert card.data.datasets == [DATASET] and card.data.eval_results is None
    assert "None were measured" in card.text


def test_without_class_names_publishing_says_how_to_name_them(runs, tmp_path, capsys):
    content = torch.load(runs["mtaclip"], weights_only=True)
    content["config"] = content["config"].replace(DATASET, "a_dataset_of_nobody")
    torch.save(content, tmp_path / "m.pth")
    with pytest.raises(SystemExit, match="2"):
        publish.main(["--checkpoint", str(tmp_path / "m.pth"), "--output", str(tmp_path / "out")])
    assert re.search(r"error: .*no class names.*--class-names\.$", capsys.readouterr().err.strip().splitlines()[-1])
    (tmp_path / "names.txt").write_text("road\ntree\n")
    with pytest.raises(SystemExit, match="2"):
        call = ["--checkpoint", str(runs["mtaclip"]), "--output", str(tmp_path / "out")]
        publish.main([*call, "--class-names", str(tmp_path / "names.txt")])
    assert "--class-names: " in (said := capsys.readouterr().err) and "names 2 classes, but the model has 3" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def scored(tmp_path) -> Iterator[str]:
    """A dataset of one labelled image with the classes of the models."""
    name = f"{DATASET}_scored"
    Image.fromarray(picture()).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((60, 90), np.uint8)).save(tmp_path / "labels.png")
    files = {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "labels.png")}
    DatasetCatalog.register(name, lambda: [files | {"label_format": "train_ids"}])
    MetadataCatalog.get(name).set(stuff_classes=list(NAMES), ignore_label=255, evaluator_type="mtaclip_sem_seg")
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_only_scores_of_the_published_weights_reach_the_card(runs, scored, tmp_path):
    content = torch.load(runs["mtaclip"], weights_only=True)
    content["config"] = content["config"].replace(f"- {DATASET}", f"- {scored}")
    changed = content["model"] | {"decoder.class_head.bias": content["model"]["decoder.class_head.bias"] + 1}
    torch.save(content, tmp_path / "model_best.pth")
    torch.save(content | {"model": changed}, tmp_path / "model_final.pth")
    predictor = Predictor.from_checkpoint(tmp_path / "model_best.pth", "cpu", ["OUTPUT_DIR", str(tmp_path)])
    measured = Trainer.test(predictor.cfg, predictor.model)["sem_seg"]
    expected = {key: round(measured[key], 2) for key in ("mIoU", "pACC")}

    def published_scores(name: str, *options: str) -> dict[str, float]:
        command = ["--checkpoint", str(tmp_path / f"{name}.pth"), "--output", str(tmp_path / "out"), "--overwrite"]
        assert publish.main([*command, *options]) == 0
        results = ModelCard.load(tmp_path / "out/README.md").data.eval_results or []
        return {result.metric_type: result.metric_value for result in results if result.metric_type in expected}

    assert published_scores("model_best") == expected
    assert published_scores("model_final") == {}
    scores = tmp_path / f"scores_{scored}.json"
    assert published_scores("model_final", "--scores", str(scores)) == expected
    scores.write_text(json.dumps(json.loads(scores.read_text()) | {"weights": None}))  # as older files are
    assert published_scores("model_best") == {}


class Hub(BaseHTTPRequestHandler):
    """The hub's answers for the one model "me/streets" of a folder."""

    folder: Path
    commit = "0123456789" * 4

    def do_GET(self):
        names = [file.name for file in self.folder.iterdir()]
        name = self.path.rsplit("/", 1)[-1]
        if not self.path.startswith(("/api/models/me/streets", "/me/streets/resolve")):
            self.send_error(404)
            return
        if "/tree/" in self.path:
            files = [{"type": "file", "path": n, "size": (self.folder / n).stat().st_size, "oid": n} for n in names]
            body = json.dumps(files).encode()
        elif self.path.startswith("/api/"):
            siblings = [{"rfilename": name} for name in names]
            model = {"id": "me/streets", "sha": self.commit, "siblings": siblings, "private": False, "downloads": 0}
            body = json.dumps({**model, "likes": 0, "tags": []}).encode()
        else:
            body = (self.folder / name).read_bytes()
        self.send_response(200)
        for key, value in (("ETag", f'"{name}"'), ("X-Repo-Commit", self.commit), ("Content-Length", str(len(body)))):
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        """Nothing on stderr."""


@pytest.fixture
def hub(copied, tmp_path, monkeypatch) -> Iterator[ThreadingHTTPServer]:
    """A hub on this machine, and an empty cache, as HF_ENDPOINT and HF_HOME name them when a process starts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneModel", (Hub,), {"folder": copied}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address = f"http://127.0.0.1:{server.server_port}"
    values = {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": False,
    }
    for module in [module for name, module in sys.modules.items() if name.startswith("huggingface_hub.")]:
        for name in values.keys() & vars(module).keys():  # clients before 1.0 copy constants into other modules
            monkeypatch.setattr(module, name, values[name])
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_comes_from_the_hub_and_later_from_its_cache(hub, copied, tmp_path):
    (copied / "malware.py").touch()  # not asked for
    with pytest.raises(OSError, match=r"'me/others' .*revision 'v2'.*: there is no such folder, and .*404.*; check"):
        Predictor.from_pretrained("me/others", "cpu", revision="v2")
    online = Predictor.from_pretrained("me/streets", "cpu")
    hub.shutdown()
    hub.server_close()
    offline = Predictor.from_pretrained("me/streets", "cpu")
    for predictor in (online, offline):
        assert predictor.class_names == NAMES
        assert Path(predictor.cfg.MODEL.WEIGHTS).is_relative_to(tmp_path / "cache")
    assert not list(tmp_path.glob("cache/**/malware.py"))
    with pytest.raises(OSError, match="'me/others': there is no such folder, and the Hugging Face Hub .*; check"):
        Predictor.from_pretrained("me/others", "cpu")


@pytest.mark.parametrize("name", ["no/such/folder", "/nowhere", "../streets", "streets"])
def test_what_is_neither_a_folder_nor_an_id_is_one_sentence(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"there is no folder {name!r}, and ids .*'name/model'"):
        Predictor.from_pretrained(name)


def test_the_documented_program_runs(published, tmp_path, monkeypatch, capsys):
    text = (ROOT / "docs/weights.md").read_text(encoding="utf-8")
    section = text.split("## Publishing a model")[1].split("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    shutil.copytree(published, tmp_path / "my-model")
    Image.fromarray(picture()).save(tmp_path / "street.png")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.strip() in NAMES
