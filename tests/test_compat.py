"""`mtaclip.compat`: what it repairs, what it leaves alone, and what it says when something is missing.

Every test runs a fresh Python, because the repairs act on modules that are imported once per process.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Loads compat.py alone, without the package around it, so that a fake Detectron2 of three files is enough.
LOAD_COMPAT = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("compat", {str(ROOT / "mtaclip" / "compat.py")!r})
compat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compat)
"""

python_only = pytest.mark.skipif(
    find_spec("detectron2") is None or find_spec("detectron2._C") is not None,
    reason="the installed Detectron2 has its compiled part",
)


def run_python(code: str, *folders: Path) -> str:
    """Run code in a fresh interpreter, with `folders` in front of its path, and return what it printed."""
    path = os.pathsep.join(map(str, [*folders, ROOT]))
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def fake_detectron2(
    folder: Path, *, interpolation: str = "BILINEAR", import_of_c: str = "import torch", compiled: bool = False
) -> Path:
    """Write a `detectron2` of the few lines that `compat` looks at, and return the folder to put on the path."""
    package = folder / "detectron2"
    files = {
        "__init__.py": '__version__ = "0.7"\n',
        "data/transforms/transform.py": f"def resize(image, interp=Image.{interpolation}): ...\n",
        "layers/rotated_boxes.py": f"{import_of_c}\n",
        **({"_C.py": 'def box_iou_rotated(): return "compiled"\n'} if compiled else {}),
    }
    for name, text in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return folder


def test_what_the_project_uses_of_detectron2_works():
    printed = run_python("""
        import mtaclip
        import numpy as np
        import torch
        from detectron2.data import MetadataCatalog, build_detection_test_loader, build_detection_train_loader
        from detectron2.data.transforms import AugInput, RandomCrop, RandomFlip, ResizeShortestEdge, ResizeTransform
        from detectron2.checkpoint import DetectionCheckpointer
        from detectron2.engine import DefaultPredictor, DefaultTrainer, default_setup, hooks, launch
        from detectron2.evaluation import DatasetEvaluator, inference_on_dataset, print_csv_format
        from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
        from detectron2.utils.events import EventStorage, JSONWriter, TensorboardXWriter
        from detectron2.utils.visualizer import Visualizer

        image = np.zeros((32, 48, 3), dtype=np.uint8)
        data = AugInput(image, sem_seg=image[:, :, 0])
        ResizeShortestEdge(16, 64)(data)
        assert data.image.shape == (16, 24, 3) and data.sem_seg.shape == (16, 24)
        metadata = MetadataCatalog.get("test_compat").set(stuff_classes=["road", "sky"], stuff_colors=[(9, 9, 9)] * 2)
        drawn = Visualizer(image, metadata).draw_sem_seg(torch.arange(2).repeat_interleave(768).view(32, 48))
        assert drawn.get_image().shape == image.shape
        print("all there")
    """)
    assert printed.splitlines()[-1] == "all there"


@python_only
def test_missing_compiled_part_is_named_only_when_it_is_used():
    printed = run_python(
        LOAD_COMPAT
        + """
assert "detectron2._C" in compat.apply()
assert compat.apply() == []  # a second call finds nothing to do
from detectron2.layers.rotated_boxes import pairwise_iou_rotated
try:
    pairwise_iou_rotated(None, None)
except ImportError as error:
    print(error)
# Code that asks properly learns the truth; Detectron2's environment report, printed by every training run, does.
assert importlib.util.find_spec("detectron2._C") is None
from detectron2.utils.collect_env import collect_env_info
assert "not built correctly" in collect_env_info()
"""
    )
    assert "detectron2._C.box_iou_rotated is not available" in printed
    assert "INSTALL.md" in printed and len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    "options",
    [
        # A compiled release-like Detectron2 whose transforms know today's Pillow.
        {"import_of_c": "from detectron2 import _C", "compiled": True},
        # A newer one without its compiled part, which guards the import itself, in a `try:`.
        {"import_of_c": "try:\n    from detectron2 import _C\nexcept ImportError:\n    _C = None"},
        {"compiled": True},
    ],
)
def test_nothing_is_patched_where_nothing_is_broken(tmp_path, options):
    fake = fake_detectron2(tmp_path, **options)
    printed = run_python(
        LOAD_COMPAT
        + """
import PIL.Image
before = dict(vars(PIL.Image))
print(compat.apply(), vars(PIL.Image) == before)
import detectron2
print(detectron2.__version__, hasattr(detectron2, "_C"))
""",
        fake,
    )
    assert printed.splitlines() == ["[] True", "0.7 False"]


@pytest.mark.parametrize("compiled", [False, True])
def test_only_what_is_broken_is_patched(tmp_path, compiled):
    fake = fake_detectron2(tmp_path, interpolation="LINEAR", import_of_c="from detectron2 import _C", compiled=compiled)
    printed = run_python(
        LOAD_COMPAT
        + """
import PIL.Image
vars(PIL.Image).pop("LINEAR", None)  # as in Pillow 10 and later
print(compat.apply())
assert PIL.Image.LINEAR == PIL.Image.BILINEAR
from detectron2 import _C
print(type(_C).__name__)
""",
        fake,
    )
    repairs = ["PIL.Image.LINEAR"] if compiled else ["PIL.Image.LINEAR", "detectron2._C"]
    assert printed.splitlines() == [str(repairs), "module" if compiled else "_MissingCompiledPart"]


@pytest.mark.parametrize(("module", "title"), [("torch", "PyTorch"), ("detectron2", "Detectron2")])
def test_missing_library_is_said_in_one_sentence_that_leads_to_its_section(module, title):
    printed = run_python(f"""
        import sys
        sys.modules[{module!r}] = None  # Python's own way to say that a module is not there
        try:
            import mtaclip
        except ImportError as error:
            print(error)
    """)
    assert printed.startswith(f"MTA-CLIP needs {title}, and this Python has no module named '{module}'")
    assert len(printed.splitlines()) == 1
    section = re.search(r"INSTALL\.md \(section '(\w+)'\)", printed)
    assert section and re.search(rf"^## {section[1]}$", (ROOT / "INSTALL.md").read_text(encoding="utf-8"), re.M)


@pytest.mark.slow
def test_spawned_processes_are_repaired_by_the_main_script(tmp_path):
    """Data loaders and multi-GPU training start processes whose first act is to unpickle something of Detectron2."""
    script = tmp_path / "main.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing
        import mtaclip
        from detectron2.data.transforms import ResizeTransform

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.apply(ResizeTransform, (2, 2, 4, 6)).new_w)
        """)
    )
    result = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "6"


# What Detectron2's main branch has changed since release 0.6 in what this project uses: file, pattern, replacement.
MAIN_BRANCH = [
    ("data/transforms/transform.py", r"Image\.LINEAR", "Image.BILINEAR"),
    ("layers/rotated_boxes.py", r"from detectron2 import _C", "import torch"),
    ("layers/deform_conv.py", r"from detectron2 import _C", "_C = None"),
    ("layers/roi_align_rotated.py", r"from detectron2 import _C", "_C = None"),
    (
        "layers/shape_spec.py",
        r"(?s)class ShapeSpec.*",
        "from dataclasses import dataclass\n\n\n@dataclass\nclass ShapeSpec:\n"
        "    channels: int = None\n    height: int = None\n    width: int = None\n    stride: int = None\n",
    ),
    (
        "layers/batch_norm.py",
        r'( +)self\.register_buffer\("running_mean", torch\.zeros\(num_features\)\)\n',
        r'\g<0>\1self.register_buffer("num_batches_tracked", None)\n',
    ),
    (
        "layers/batch_norm.py",
        r"( +)res\.eps = module\.eps\n",
        r"\g<0>\1res.num_batches_tracked = module.num_batches_tracked\n",
    ),
    (
        "evaluation/coco_evaluation.py",
        r"from detectron2\.evaluation\.fast_eval_api import COCOeval_opt",
        "COCOeval_opt = None",
    ),
]


@pytest.fixture
def main_branch(tmp_path) -> Path:
    """The installed Detectron2 with the interfaces of its main branch, as a folder for the path."""
    package = tmp_path / "main_branch" / "detectron2"
    installed = find_spec("detectron2")
    assert installed is not None and installed.origin is not None
    shutil.copytree(Path(installed.origin).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, pattern, replacement in MAIN_BRANCH:
        text, count = re.subn(pattern, replacement, (package / name).read_text(encoding="utf-8"))
        assert count == 1, f"{name} has no {pattern}"
        (package / name).write_text(text, encoding="utf-8")
    return package.parent


@python_only
@pytest.mark.slow
def test_a_run_goes_on_with_the_main_branch_and_back(main_branch, miniature_root, tmp_path, run_script):
    """Frozen BatchNorm has one more buffer in the main branch."""
    arguments = ["train_net.py", "--config-file", "configs/miniature/mtaclip_tiny.yaml", "--num-gpus", "0", "--resume"]
    options = ["MODEL.CLIP.NORM", "FrozenBN", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", tmp_path / "run"]
    for iterations, environment in [("1", {}), ("2", {"PYTHONPATH": f"{main_branch}:{ROOT}"}), ("3", {})]:
        done = run_script(*arguments, *options, "SOLVER.MAX_ITER", iterations, root=miniature_root, **environment)
        assert done.returncode == 0, done.stderr
    lines = (tmp_path / "run/metrics.json").read_text().splitlines()
    assert {json.loads(line)["iteration"] for line in lines} >= {0, 1, 2}
