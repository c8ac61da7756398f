import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "projects" / "MTACLIP" / "tutorial.ipynb"
FIGURES = {"overlay": 2, "confidence": 1, "masks": 1, "losses": 1, "steps": 1, "evaluation": 1, "prompts": 1}
DRAWINGS = ("alignment", "heat-map")
MACHINE_PATH = re.compile(r"/(home|root|Users|tmp|work|mnt)/|\b[A-Z]:\\")


def read() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_valid_and_holds_neither_outputs_nor_machine_paths():
    notebook = read()
    nbformat.validate(notebook)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code_cells(notebook))
    assert MACHINE_PATH.search(NOTEBOOK.read_text(encoding="utf-8")) is None


def test_all_its_code_is_plain_python():
    for cell in code_cells(read()):
        compile(cell.source, cell.id, "exec")


def test_it_is_kept_as_nbformat_writes_it():
    assert nbformat.writes(read()) + "\n" == NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.parametrize("document", ["README.md", "projects/MTACLIP/README.md", "projects/MTACLIP/tutorial.ipynb"])
def test_documents_name_it_as_it_is_started(document):
    commands = re.findall(r"jupyter lab ([\w/.-]+\.ipynb)", (ROOT / document).read_text(encoding="utf-8"))
    assert commands and all(ROOT / command == NOTEBOOK for command in commands)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory, tiny_checkpoint) -> Path:
    """A repository root as `make demo` leaves it, with a few images and a model that has learned nothing."""
    root = tmp_path_factory.mktemp("tree")
    (root / "configs" / "miniature").mkdir(parents=True)
    (root / "projects" / "MTACLIP").mkdir(parents=True)
    command = [sys.executable, "datasets/make_miniature.py", "--root", root / "datasets" / "miniature"]
    sizes = ["--train", "4", "--val", "2", "--test", "1"]
    subprocess.run([*command, *sizes], cwd=ROOT, check=True, capture_output=True)
    checkpoint = root / "output" / "miniature" / "mtaclip_tiny" / "model_final.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.symlink_to(tiny_checkpoint("mtaclip"))
    return root


@pytest.fixture(autouse=True)
def kernel_environment(monkeypatch):
    """Kernels use this checkout, and one core."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)


def run(folder: Path, last: str | None = None) -> dict[str, list[NotebookNode]]:
    """Outputs by cell of a kernel that starts in `folder`, up to the cell `last`, or of all cells."""
    notebook = read()
    ids = [cell.id for cell in notebook.cells]
    notebook.cells = notebook.cells[: None if last is None else ids.index(last) + 1]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return {cell.id: cell.outputs for cell in code_cells(notebook)}


def printed(outputs: list[NotebookNode]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def shown(outputs: list[NotebookNode], kind: str) -> list[str]:
    return [output.data[kind] for output in outputs if "data" in output and kind in output.data]


def numbers(pattern: str, text: str) -> list[float]:
    return [float(number) for number in re.findall(pattern, text)]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tree):
    outputs = run(tree)
    text = {cell: printed(found) for cell, found in outputs.items()}

    assert "labels (128, 256) uint8   scores (19, 128, 256)" in text["predict"]
    assert "the model sees (3, 64, 128)" in text["config"]
    assert "opts: Non-existent key: INPUT.MIN_SIZE_TESTS; mtaclip/config.py lists the keys" in text["config"]
    # 30 mask queries and 2 contexts of 20 texts make 70 tokens.
    assert re.search(r"positions \(T, d\) +\(70, 64\)", text["flow"])
    assert numbers(r"label: ([\d.]+)%", text["masks"])[0] > 99.9

    losses = dict(re.findall(r"^loss_(\w+) +([\d.]+)$", text["losses"], re.M))
    kinds = ("ce", "mask", "dice", "mask_text")
    assert set(losses) == {kind + layer for kind in kinds for layer in ("", "_1", "_2")}
    assert numbers(r"total +([\d.]+)", text["losses"]) == pytest.approx([sum(map(float, losses.values()))], abs=0.01)
    first, last = numbers(r"\d+\.\d+", text["steps"])
    assert last < first

    (score,) = numbers(r"mIoU ([\d.]+)", text["evaluation"])
    linear, *others = numbers(r"mIoU +([\d.]+)", text["classifier"])
    assert linear == score and len(others) == 2 and all(0 <= score <= 100 for score in (linear, *others))
    assert numbers(r"linear .* ([\d.]+)%", text["classifier"]) == [100.0]
    assert len(re.findall(r"prompt \d, vector \d: \S+ -?[\d.]+", text["prompts"])) == 8  # 2 contexts of 4 vectors

    for cell, count in FIGURES.items():
        pictures = shown(outputs[cell], "image/png")
        assert len(pictures) == count, cell
        assert all(min(Image.open(io.BytesIO(base64.b64decode(picture))).size) > 40 for picture in pictures), cell
    assert all("<svg" in shown(outputs[cell], "text/html")[0] for cell in DRAWINGS)


@pytest.mark.slow
def test_it_may_be_started_in_its_own_folder(tree):
    assert "2 validation images" in printed(run(tree / "projects" / "MTACLIP", last="predict")["predict"])


@pytest.mark.slow
def test_without_the_demo_it_says_what_to_do(tmp_path):
    with pytest.raises(CellExecutionError, match=r"There is no .*model_final\.pth: run `make demo`"):
        run(tmp_path, last="setup")
