"""What earlier runs and other people's models left behind: numbers, names and colours, or one sentence."""

import json

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mtaclip.evaluation.comparison import check_comparable, comparison_markdown, comparison_page, read_scores
from mtaclip.merging import default_config
from mtaclip.modeling.clip import clip_config
from mtaclip.publishing.card import model_card
from mtaclip.publishing.folder import read_classes, read_folder
from mtaclip.visualization.curves import draw_curves
from tests.inputs.files import CLASSES, CLIP_MODEL, PUBLISHED, SCORES
from tests.inputs.mutations import damaged
from tests.inputs.sentences import check_sentence

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from((10**400, -(10**30), float("inf"), float("nan"), "", "1", "\0", "\ud800", "<b>"))
    | st.text(max_size=6)
)


def trees(*keys: str) -> st.SearchStrategy:
    """Anything that JSON can hold, with these keys more often than others."""
    names = st.sampled_from(keys) | st.text(max_size=4)
    return st.recursive(
        SCALARS,
        lambda values: st.lists(values, max_size=3) | st.dictionaries(names, values, max_size=4),
        max_leaves=8,
    )


def texts(good: dict, *keys: str) -> st.SearchStrategy[bytes]:
    """A good file, in which some values are others, and which may be damaged; or any JSON."""
    others = st.dictionaries(st.sampled_from(sorted(good)), trees(*keys), max_size=2)
    changed = others.map(lambda other: json.dumps({**good, **other}).encode())
    return changed | damaged(changed) | trees(*good, *keys).map(lambda tree: json.dumps(tree).encode())


@example(content=b"[" * 100_000)
@example(content=json.dumps({**SCORES, "num_images": float("inf")}).encode())
@given(content=texts(SCORES, "mIoU", "IoU-wall"))
def test_scores_are_compared_or_refused_in_a_sentence(write, cases, content):
    path = write(content, "scores_ade20k.json")
    try:
        with cases:
            evaluation = read_scores(path)
            check_comparable([evaluation, evaluation])
    except (ValueError, OSError) as error:
        check_sentence(error)
    else:
        comparison_page(["a", "b"], [evaluation, evaluation]).encode()
        comparison_markdown(["a", "b"], [evaluation, evaluation]).encode()


@given(content=texts(SCORES, "mIoU", "IoU-wall"))
def test_scores_are_in_a_model_card_or_refused_in_a_sentence(write, cases, content):
    path = write(content, "scores_ade20k.json")
    try:
        with cases:
            card = model_card("model", default_config(), ["wall", "sky"], [read_scores(path)], "other")
    except (ValueError, OSError) as error:
        check_sentence(error)
    else:
        front_matter = yaml.safe_load(card.encode().decode().split("---\n")[1])
        assert front_matter["library_name"] == "mtaclip"


LINES = st.lists(
    st.dictionaries(
        st.sampled_from(("iteration", "lr", "loss_ce", "sem_seg/mIoU")) | st.text(max_size=3), SCALARS, max_size=4
    ).map(json.dumps)
    | st.fixed_dictionaries(
        {
            "iteration": st.integers(-2, 5) | st.sampled_from((10**400, float("nan"), 1e308)),
            "lr": st.floats() | st.sampled_from((10**400, -(10**400), True)),
        }
    ).map(json.dumps)
    | st.sampled_from(("", "[]", "[" * 100_000, "9" * 5000, '{"iteration": 1, "loss_ce": 2}')),
    max_size=4,
).map(lambda lines: "\n".join(lines).encode())


@example(content=b"[" * 100_000 + b"\n{}\n")
@example(content=b'{"iteration": 1, "other": 2}\n')
@given(content=damaged(LINES))
def test_metrics_are_drawn_or_refused_in_a_sentence(write, cases, content):
    path = write(content, "metrics.json")
    try:
        with cases:
            draw_curves(path, path.with_name("curves.png"))
    except (ValueError, OSError) as error:
        check_sentence(error)


@given(content=texts(CLASSES, "name", "colour"))
def test_published_classes_are_read_or_refused_in_a_sentence(write, cases, content):
    path = write(content, "classes.json")
    try:
        with cases:
            palette = read_classes(path.parent, 2)
    except (ValueError, OSError) as error:
        check_sentence(error)
    else:
        assert len(palette.names) == 2 and palette.colours.shape == (2, 3)
        assert "".join(palette.names).encode().strip()


@example(content=b"DATASETS: {TRAIN: [[]]}\n")
@example(content=b"MODEL: {CLIP: {ARCH: null}}\n")
@example(content=b'{"SEED": "\\u001b[2J"}')
@given(content=texts(PUBLISHED, "CLIP", "ARCH", "MTACLIP", "TEXT", "VOCABULARY", "TRAIN"))
def test_a_published_config_is_read_or_refused_in_a_sentence(write, cases, content):
    path = write(content, "config.yaml")
    for name in ("classes.json", "model.safetensors"):
        path.with_name(name).write_bytes(b"")
    try:
        with cases:
            read_folder(path.parent)
    except (ValueError, OSError) as error:
        check_sentence(error)


@example(content=b"[" * 100_000)
@example(content=b"[]")
@given(content=texts(CLIP_MODEL, "image_size", "layers", "width"))
def test_a_model_config_is_read_or_refused_in_a_sentence(write, cases, content):
    path = write(content, "small.json")
    try:
        with cases:
            assert isinstance(clip_config(str(path)), dict)
    except (ValueError, OSError) as error:
        check_sentence(error)
