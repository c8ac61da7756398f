"""The page and the Markdown that an evaluation writes."""

import logging
from html.parser import HTMLParser
from io import BytesIO
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mtaclip.engine import Trainer, setup_cfg
from mtaclip.evaluation import SemanticEvaluator
from mtaclip.evaluation.charts import confusion_picture, frequent_confusions
from mtaclip.visualization.page import element

DATASET = "evaluation_test_report"
ODD = '<b>&"|'
VOID = {"img", "meta"}


class Page(HTMLParser):
    """Reads a page; every element must be closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and text.strip():
            self.texts.append((self.open[-1], text))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def class_names(count: int) -> list[str]:
    return [ODD, *(f"class {i}" for i in range(1, count))]


@pytest.fixture
def make_dataset():
    def make(count: int, categories: bool = False) -> str:
        metadata = MetadataCatalog.get(DATASET).set(stuff_classes=class_names(count), ignore_label=255)
        if categories:
            metadata.set(stuff_categories=["first", *["rest"] * (count - 1)])
        return DATASET

    yield make
    MetadataCatalog.remove(DATASET)


def evaluate(folder, count: int, num_images: int = 3, **options) -> dict[str, float]:
    """Evaluate images in which a quarter of the pixels is wrong."""
    rng = np.random.default_rng(4)
    evaluator = SemanticEvaluator(DATASET, folder / "out", **options)
    for i in range(num_images):
        truth = rng.integers(0, count, (24, 40)).astype(np.uint8)
        truth[0] = 255
        prediction = np.where(rng.random(truth.shape) < 0.25, rng.integers(0, count, truth.shape), truth % count)
        Image.fromarray(rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        Image.fromarray(truth).save(folder / f"{i}_labels.png")
        record = {"file_name": str(folder / f"{i}.png"), "sem_seg_file_name": str(folder / f"{i}_labels.png")}
        evaluator.process([record], [{"labels": torch.from_numpy(prediction.astype(np.uint8))}])
    return evaluator.evaluate()["sem_seg"]


@pytest.mark.parametrize("count", [19, 150])
def test_the_page_is_complete_and_needs_no_other_file(make_dataset, tmp_path, count):
    make_dataset(count, categories=True)
    scores = evaluate(tmp_path, count, boundary_iou=True)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "http:" not in text and "https:" not in text and "url(" not in text and "<script" not in text
    page = Page(text)
    pictures = page.all("img")
    assert len(pictures) == 9  # of each of three images
    for picture in pictures:
        assert picture["alt"]
        assert picture["src"].startswith("data:image/")
        Image.open(BytesIO(urlopen(picture["src"]).read())).load()
    assert len(page.all("svg")) == 1

    assert "<b>" not in text
    names = [text for tag, text in page.texts if tag == "span"]
    assert all(name in names for name in class_names(count))
    cells = [text for tag, text in page.texts if tag == "td"]
    for name in class_names(count):
        place = cells.index(name)
        assert cells[place + 1] == f"{scores[f'IoU-{name}']:.2f}"
    means = {
        name: value for (_, name), (_, value) in zip(page.texts, page.texts[1:], strict=False) if value[0].isdigit()
    }
    for name in ("mIoU", "fwIoU", "mACC", "pACC", "category mIoU", "boundary IoU"):
        assert means[name] == f"{scores[name]:.2f}"
    assert ("span", "3 images") in page.texts and ("h1", DATASET) in page.texts
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings == [
        "Means",
        "IoU by class",
        "Classes",
        "Categories",
        "Confusions",
        "Best images",
        "Worst images",
    ]


def test_bars_go_from_the_best_class_to_the_worst(make_dataset, tmp_path):
    make_dataset(19)
    scores = evaluate(tmp_path, 19)
    page = Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    shown = [attributes["title"] for tag, attributes in page.elements if attributes.get("class") == "name"]
    assert shown == sorted(class_names(19), key=lambda name: -scores[f"IoU-{name}"])
    widths = [attributes["style"] for _, attributes in page.elements if attributes.get("class") == "bar"]
    assert widths == [f"width: {scores[f'IoU-{name}']:.2f}%" for name in shown]
    swatches = [attributes["style"] for _, attributes in page.elements if attributes.get("class") == "swatch"]
    assert len(set(swatches)) == 19


def test_markdown_has_the_numbers_of_the_scores(make_dataset, tmp_path):
    make_dataset(60, categories=True)
    scores = evaluate(tmp_path, 60)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert text.startswith(f"# `{DATASET}`\n") and "3 images" in text
    rows = [[cell.strip() for cell in line.split(" | ")] for line in text.replace("| ", " | ").splitlines()]
    rows = {row[1]: row[2:] for row in rows if len(row) > 2}
    for name in class_names(60)[1:]:
        assert rows[name][:2] == [f"{scores[f'IoU-{name}']:.2f}", f"{scores[f'ACC-{name}']:.2f}"]
    assert r"\<b\>\&\"\|".replace(r"\"", '"') in text
    assert rows["first"] == [f"{scores['IoU-category-first']:.2f} |"]
    assert f"{scores['mIoU']:.2f}" in text


def test_the_report_has_another_name_or_is_left_out(make_dataset, tmp_path):
    make_dataset(3)
    evaluate(tmp_path, 3, report="report_val")
    assert {file.suffix for file in (tmp_path / "out").glob("report_val.*")} == {".html", ".md"}
    (tmp_path / "other").mkdir()
    evaluate(tmp_path / "other", 3, report=None)
    assert [file.name for file in (tmp_path / "other" / "out").iterdir()] == [f"scores_{DATASET}.json"]


def test_each_of_several_test_datasets_has_a_report(miniature, config_path, tmp_path):
    names = ["cityscapes_sem_seg_val", "cityscapes_sem_seg_train"]
    for datasets, reports in ((names[:1], ["report"]), (names, [f"report_{name}" for name in names])):
        folder = tmp_path / str(len(datasets))
        opts = ["DATASETS.TEST", str(datasets), "OUTPUT_DIR", str(folder)]
        cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), opts, device="cpu")
        for name in datasets:
            evaluator = Trainer.build_evaluator(cfg, name)
            record = DatasetCatalog.get(name)[0]
            size = Image.open(record["sem_seg_file_name"]).size
            evaluator.process([record], [{"labels": torch.zeros(size[::-1], dtype=torch.uint8)}])
            evaluator.evaluate()
        assert sorted(file.name for file in folder.glob("*.html")) == sorted(f"{report}.html" for report in reports)


def test_scores_outlive_missing_photos_and_a_report_that_cannot_be_written(make_dataset, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("mtaclip"), "propagate", True)
    make_dataset(3)
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    evaluator = SemanticEvaluator(DATASET, tmp_path / "out")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "labels.png")
    (tmp_path / "photo.jpg").write_bytes(b"no photo")
    for name in ("missing.jpg", "photo.jpg"):
        record = {"file_name": str(tmp_path / name), "sem_seg_file_name": str(tmp_path / "labels.png")}
        evaluator.process([record], [{"labels": torch.zeros((4, 4), dtype=torch.uint8)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == 100.0
    assert (tmp_path / "out" / f"scores_{DATASET}.json").is_file()
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    (error,) = errors
    assert error.startswith(f"{tmp_path / 'out' / 'report.html'}: not written: Is a directory (")
    assert error.endswith("; remove the cause and run the same command again."), "one sentence"
    assert (tmp_path / "out" / "report.md").is_file()
    assert not list((tmp_path / "out").glob(".*"))  # no half-written file stays


def test_confusions_with_most_pixels_come_first():
    counts = np.array([[80, 20, 0], [5, 5, 0], [0, 15, 35]])
    heads, rows = frequent_confusions(counts, ("a", "b", "c"), limit=2)
    # 40 wrong pixels: 20 of the 100 of a, 15 of the 50 of c, 5 of b.
    assert rows == [["a \u2192 b", "20.0 %", "50.0 %"], ["c \u2192 b", "30.0 %", "37.5 %"]]
    assert len(heads) == 3
    assert frequent_confusions(np.diag([1, 2]), ("a", "b"))[1] == []


def test_the_matrix_is_normalised_by_rows():
    counts = np.zeros((41, 41), np.int64)
    counts[0, :2] = 75, 25  # opacity: the root of the share
    counts[40, 40] = 3
    page = Page(confusion_picture(counts, tuple(f"class {index}" for index in range(41))))
    (picture,) = page.all("image")
    pixels = np.array(Image.open(BytesIO(urlopen(picture["href"]).read())))
    assert pixels.shape == (41, 41, 4)
    assert pixels[0, :2, 3].tolist() == [221, 128] and pixels[40, 40, 3] == 255  # 255 * sqrt(0.75), 255 / 2
    assert np.count_nonzero(pixels[..., 3]) == 3
    assert pixels[0, 0, :3].tolist() != pixels[0, 1, :3].tolist()
    # Every third class has its name beside its row and above its column, and every row tells what it is.
    assert [text for tag, text in page.texts if tag == "text"][:4] == ["class 0", "class 0", "class 3", "class 3"]
    tips = [text for tag, text in page.texts if tag == "title" and "\u2192" in text]
    assert len(tips) == 41
    assert tips[0] == "class 0 \u2192\n75.0 % class 0\n25.0 % class 1" and tips[1] == "class 1 \u2192 no pixels"

    page = Page(confusion_picture(np.array([[75, 25], [0, 0]]), ("a", "b")))
    assert [text for tag, text in page.texts if tag == "text"] == ["a", "a", "b", "b", "75", "25"]


def test_text_is_escaped_and_markup_is_not():
    inner = element("b", "1 < 2 & 3", title='"')
    assert element("p", inner, "<i>", class_="x") == '<p class="x"><b title="&quot;">1 &lt; 2 &amp; 3</b>&lt;i&gt;</p>'
