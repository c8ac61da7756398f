"""Pictures of an alignment that was made by hand; every number in them follows from it."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mtaclip.alignment import AlignedMasks, Alignment, Word
from mtaclip.visualization import Palette
from mtaclip.visualization.alignment_page import alignment_page, heat_map_section, segments_section, words_section
from mtaclip.visualization.context_maps import COLOURS, draw_context_maps
from mtaclip.visualization.heat_map import draw_heat_map
from mtaclip.visualization.projection import draw_projection, separation_rows
from mtaclip.visualization.segments import draw_segments, segment_rows

SVG = "{http://www.w3.org/2000/svg}"
PALETTE = Palette(("road", "<sky>"), np.array([(128, 64, 128), (70, 130, 180)], np.uint8))


@pytest.fixture
def alignment() -> Alignment:
    """Query 0 decides the left half as road, query 1 the right half as sky; a context each prefers them."""
    similarity = np.zeros((2, 3, 3), np.float32)
    similarity[1, 0, 0], similarity[0, 1, 1], similarity[:, 0, 1] = 0.8, 0.9, -0.4
    masks = np.zeros((3, 8, 16), np.float32)
    masks[0, :, :8] = masks[1, :, 8:] = 1.0
    labels = np.zeros((32, 64), np.uint8)
    labels[:, 32:] = 1
    return Alignment(
        texts=("road", "<sky>", "none"),
        image=np.full((32, 64, 3), 100, np.uint8),
        probabilities=np.array([[0.9, 0.1], [0.0, 0.75], [0.0, 0.0]], np.float32),
        similarity=similarity,
        masks=masks,
        mask_embeddings=np.eye(3, dtype=np.float32),
        text_embeddings=np.ones((2, 3, 3), np.float32) / np.float32(3**0.5),
        labels=labels,
        owners=labels.astype(np.int16),
    )


@pytest.fixture
def masks() -> AlignedMasks:
    """Two masks of each class at their text; the second context is far from all."""
    embeddings = np.repeat(np.eye(3, dtype=np.float32)[:2], 2, axis=0)
    texts = np.zeros((2, 3, 3), np.float32)
    texts[0, 0, 0] = texts[0, 1, 1] = texts[0, 2, 2] = 1.0
    texts[1, :, 2] = 1.0
    return AlignedMasks(embeddings, np.array([0, 0, 1, 1]), ("a.png", "b.png", "a.png", "b.png"), texts, 2)


def parse(markup: str) -> ElementTree.Element:
    root = ElementTree.fromstring(markup)
    assert root.tag == f"{SVG}svg"
    return root


def words(root: ElementTree.Element, tag: str = "text") -> list[str]:
    return [node.text for node in root.iter(f"{SVG}{tag}")]


def test_segments_are_numbered_inside_and_listed_beside_the_picture(alignment):
    assert segment_rows(alignment, PALETTE) == [
        ["1", "road", "road", "2", "0.80", "0.90", "0"],
        ["2", "<sky>", "<sky>", "1", "0.90", "0.75", "1"],
    ]
    root = parse(draw_segments(alignment, PALETTE))
    tips = words(root, "title")
    assert tips[0] == "1: road, score 0.90 (query 0)\nclosest to prompt 2 of 'road', cosine 0.80"
    shapes = root.findall(f".//{SVG}path")
    assert [shape.get("fill") for shape in shapes] == ["rgb(128,64,128)", "rgb(70,130,180)"]
    columns = [[int(x) for x in re.findall(r"[ML](\d+) ", shape.get("d"))] for shape in shapes]
    assert [(min(x), max(x)) for x in columns] == [(0, 359), (360, 719)]  # the picture is 720 pixels wide
    badges = root.findall(f"./{SVG}g[1]/{SVG}g[@class='badge']/{SVG}circle")
    centres = sorted(float(badge.get("cx")) for badge in badges)
    assert len(centres) == 2 and centres[0] < 360 < centres[1]
    assert words(root).count("<sky>") == 2
    assert "<sky>" not in words(parse(draw_segments(alignment, PALETTE, table=False)))


def test_numbers_of_small_segments_keep_clear_of_each_other(alignment):
    owners = np.arange(32 * 64).reshape(32, 64) % 3
    alignment = Alignment(**{**vars(alignment), "owners": owners.astype(np.int16)})
    root = parse(draw_segments(alignment, PALETTE, table=False))
    centres = [complex(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
    assert len(centres) == 6
    assert min(abs(a - b) for a in centres for b in centres if a is not b) > 18


def test_the_heat_map_tells_cosine_and_context_of_every_cell(alignment):
    root = parse(draw_heat_map(alignment))
    assert words(root)[:10] == [
        "road (query 0)", "0.80", "p2", "\u22120.40", "p1",
        "<sky> (query 1)", "0.00", "p1", "0.90", "p1",
    ]  # fmt: skip
    assert words(root, "title")[0] == "road (query 0), prompt 2 of 'road': cosine 0.800"
    cells = [c for c in root.iter(f"{SVG}rect") if c.get("class") in ("like", "unlike")]
    assert [(c.get("class"), c.get("fill-opacity")) for c in cells] == [
        ("like", "0.80"), ("unlike", "0.40"), ("like", "0.00"), ("like", "0.90"),
    ]  # fmt: skip
    frames = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "best"]
    assert [float(f.get("x")) - float(c.get("x")) for f, c in zip(frames, (cells[0], cells[3]), strict=True)] == [1, 1]


def test_context_maps_have_the_colours_of_their_values(alignment):
    picture = draw_context_maps(alignment, [0])
    height = 200  # of a panel of 400 x 200, 16 from the left, below a caption of 26
    first, second = (picture[42 : 42 + height, left : left + 400] for left in (16, 428))
    # image 100 with a quarter; the largest value, 0.8, has the last colour, 0 the first
    bright, dark = ((0.75 * COLOURS[index] + 25.0).round() for index in (-1, 0))
    assert np.abs(second[100, 100] - bright).max() <= 1
    assert np.abs(second[100, 300] - dark).max() <= 1
    assert np.abs(first.astype(float) - dark).max() <= 1  # context 1 does not fire
    assert (picture[:8] == 255).all() and (picture[20:40, 16:100] < 128).any()  # margin and caption


def test_a_row_for_every_class_that_is_asked_for(alignment):
    one, two = draw_context_maps(alignment, [0]), draw_context_maps(alignment, [0, 1])
    assert two.shape[1] == one.shape[1] and two.shape[0] - one.shape[0] == 200 + 26 + 12


def test_the_projection_shows_masks_texts_and_their_figures(masks):
    # silhouettes are 1; a mask has 1 with its own text and 0 with all others
    assert separation_rows(masks, PALETTE) == [
        ["all", "4", "1.00", "1.00"],
        ["road", "2", "1.00", "1.00"],
        ["<sky>", "2", "1.00", "1.00"],
    ]
    root = parse(draw_projection(masks, PALETTE))
    assert words(root)[0] == "4 masks of 2 images: mean silhouette 1.00, mean margin 1.00"
    assert words(root, "title") == [
        "road in a.png", "road in b.png", "<sky> in a.png", "<sky> in b.png",
        "prompt 1 of 'road'", "prompt 1 of '<sky>'", "prompt 2 of 'road'", "prompt 2 of '<sky>'",
        "road", "<sky>",
    ]  # fmt: skip
    dots = [(c.get("cx"), c.get("cy"), c.get("fill")) for c in root.iter(f"{SVG}circle")]
    assert len(set(dots)) == 2 and dots[0] == dots[1] != dots[2]
    plane = root.find(f"./{SVG}g")
    squares = plane.findall(f"{SVG}g[@class='prompt']")
    assert squares[0].get("transform") == f"translate({dots[0][0]} {dots[0][1]})"  # at its masks
    assert [square.find(f"{SVG}text").text for square in squares] == ["1", "2"]
    assert len(plane.findall(f"{SVG}rect[@class='idle']")) == 2  # the second context is nobody's choice


def test_the_page_holds_the_views_and_every_segment(alignment):
    vectors = [[[Word("street", 0.9), Word("stre-", 0.25)]]]
    sections = [segments_section(alignment, PALETTE), heat_map_section(alignment), words_section(vectors)]
    text = alignment_page("a & b.png", alignment, sections)
    assert text.count("<svg") == 2 and "<h1>a &amp; b.png</h1>" in text
    assert "3 mask queries" in text and "2 prompts of 3 class texts" in text
    assert "<td>street 0.90</td><td>stre- 0.25</td>" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == [] and "<script" not in text


def test_of_many_queries_those_are_shown_whose_closest_text_has_a_column(alignment):
    count = 30  # queries, each deciding one row of pixels less than the one before, with a class of its own
    similarity = np.eye(count, count + 1, dtype=np.float32)[None]
    owners = np.repeat(np.arange(count), np.arange(count, 0, -1))[:, None].repeat(2, axis=1)
    many = {
        "texts": tuple(f"text {k}" for k in range(count + 1)),
        "similarity": similarity,
        "labels": owners.astype(np.uint8),
        "owners": owners.astype(np.int16),
    }
    root = parse(draw_heat_map(Alignment(**{**vars(alignment), **many})))
    assert len([rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "best"]) == 24
    assert words(root)[0] == "text 0 (query 0)" and words(root).count("1.00") == 24
    assert words(root)[-1].endswith("6 queries with fewer pixels are left out.")


def test_many_classes_have_a_large_plane_and_a_legend_in_columns():
    count = 60
    palette = Palette(tuple(f"class {k}" for k in range(count)), np.zeros((count, 3), np.uint8))
    embeddings = np.eye(count, dtype=np.float32)
    masks = AlignedMasks(embeddings, np.arange(count), ("a.png",) * count, embeddings[None], 1)
    root = parse(draw_projection(masks, palette))
    assert root.find(f"./{SVG}g/{SVG}rect").get("width") == "1000"
    lefts = {float(node.get("x")) for node in root.iter(f"{SVG}text") if (node.text or "").startswith("class ")}
    assert len(lefts) == 3
    assert float(root.get("height")) >= 1000
