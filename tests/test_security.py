"""What SECURITY.md says of the code: nothing runs what a file, a name or a text holds."""

import ast
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from zlib import crc32

import pytest
from PIL import Image

from mtaclip.data.image_files import read_image, read_instance_map
from mtaclip.data.labels import read_label_map

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("mtaclip", "projects", "datasets", "benchmarks", "requirements")
SOURCES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
SOURCES += [ROOT / name for name in ("demo.py", "setup.py", "train_net.py")]

RUN_TEXT = {"eval", "exec", "compile", "__import__"}
RUN_A_SHELL = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
BUILD_OBJECTS = {
    *(f"yaml.{name}" for name in ("load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all")),
    *(f"pickle.{name}" for name in ("load", "loads", "Unpickler")),
    "torch.jit.load",
    "torch.hub.load",
}
RACE = {"tempfile.mktemp"}
FORBIDDEN = RUN_TEXT | RUN_A_SHELL | BUILD_OBJECTS | RACE
SERIALIZERS = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
# What a call must say; `allow_unsafe` is True where Detectron2 is not told.
REQUIRED = {
    "torch.load": ("weights_only", "True"),
    "merge_from_file": ("allow_unsafe", "False"),
    "load_yaml_with_base": ("allow_unsafe", "False"),
}
# The modules that define unpicklers, which refuse all classes but those that they name.
UNPICKLING = {"mtaclip/checkpoint/files.py", "mtaclip/checkpoint/inert.py"}
# The function that reads pickled objects where MODEL.WEIGHTS_ALLOW_PICKLE says so.
ON_DEMAND = ("mtaclip/checkpoint/files.py", "_read_torch")


def imported(tree: ast.AST) -> dict[str, str]:
    """Everything that a file imports: its full name by its name in the file."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def calls(node: ast.AST, function: str = "") -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the name of the function that it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield child, function
        yield from calls(child, child.name if isinstance(child, ast.FunctionDef) else function)


def is_forbidden(call: ast.Call, names: dict[str, str]) -> bool:
    first, *rest = ast.unparse(call.func).split(".")
    name = ".".join([names.get(first, first), *rest])
    told = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    required = REQUIRED.get(name) or REQUIRED.get(name.rpartition(".")[2])
    return (
        name in FORBIDDEN
        or (required is not None and told.get(required[0]) != required[1])
        or told.get("shell", "False") != "False"
        or told.get("allow_pickle") == "True"
    )


def findings(source: str, file: str = "") -> list[str]:
    """What a source file does that it must not.

    Args:
        source: its text.
        file: its path from the root, which decides about exceptions.
    """
    tree = ast.parse(source)
    names = imported(tree)
    modules = {name.split(".")[0] for name in names.values()}
    found = [] if file in UNPICKLING else [f"import {name}" for name in sorted(modules & SERIALIZERS)]
    return found + [
        f"line {call.lineno}: {ast.unparse(call)}"
        for call, function in calls(tree)
        if is_forbidden(call, names) and (file, function) != ON_DEMAND
    ]


def test_no_source_runs_what_it_reads():
    assert len(SOURCES) > 150
    found = {
        str(file.relative_to(ROOT)): findings(file.read_text(encoding="utf-8"), file.relative_to(ROOT).as_posix())
        for file in SOURCES
    }
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "import os\nos.system(command)",
        "from os import popen as run\nrun(command)",
        "import subprocess\nsubprocess.run(command, shell=True)",
        "import subprocess as s\ns.run(command, shell=wanted)",
        "import yaml\nyaml.load(text, Loader=yaml.FullLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "cfg.merge_from_file(file)",
        "cfg.merge_from_file(file, allow_unsafe=True)",
        "import torch\ntorch.load(file)",
        "import torch\ntorch.load(file, weights_only=False)",
        "import torch\ntorch.load(file, **options)",
        "import torch\ntorch.jit.load(file)",
        "import numpy as np\nnp.load(file, allow_pickle=True)",
        "import pickle",
        "import tempfile\ntempfile.mktemp()",
    ],
)
def test_forbidden_calls_are_found(source):
    assert len(findings(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile(text)",
        "model.eval()",
        "import yaml\nyaml.safe_load(text)",
        "import subprocess\nsubprocess.run([program, text])",
        "cfg.merge_from_file(file, allow_unsafe=False)",
        "import torch\ntorch.load(file, weights_only=True)",
        "read_state(file, allow_pickle=cfg.MODEL.WEIGHTS_ALLOW_PICKLE)",
    ],
)
def test_harmless_calls_are_not_found(source):
    assert findings(source) == []


def test_pickled_objects_are_read_by_one_function():
    file, function = ON_DEMAND
    source = (
        "import pickle\nimport torch\ndef {}(file):\n    torch.load(file, weights_only=False)\n    pickle.load(file)\n"
    )
    assert findings(source.format(function), file) == []
    assert len(findings(source.format("another"), file)) == 2


@pytest.mark.parametrize(("read", "mode"), [(read_image, "RGB"), (read_label_map, "L"), (read_instance_map, "I;16")])
def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path, read, mode):
    # A PNG of 1 x 1 pixel whose header says 100000 x 100000: 28 GB as RGB.
    content = BytesIO()
    Image.new(mode, (1, 1)).save(content, "PNG")
    png = content.getvalue()
    header = b"IHDR" + (100_000).to_bytes(4, "big") * 2 + png[24:29]
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png[:12] + header + crc32(header).to_bytes(4, "big") + png[33:])
    with pytest.raises(ValueError, match=r"bomb\.png cannot be read \(Image size \(10000000000 pixels\) exceeds"):
        read(bomb)
