"""Configs and options of all kinds: a configuration that the checks have seen, or one sentence."""

import pytest
import yaml
from detectron2.config import CfgNode
from hypothesis import example, given
from hypothesis import strategies as st

from mtaclip.engine import setup_cfg
from mtaclip.merging import default_config
from tests.inputs.files import CONFIGS, configs
from tests.inputs.mutations import damaged
from tests.inputs.sentences import check_sentence


def flat(node: CfgNode, prefix: str = "") -> dict[str, object]:
    """The keys of a config, sections included, with their values."""
    keys = {}
    for name, value in node.items():
        keys[prefix + name] = value
        if isinstance(value, CfgNode):
            keys |= flat(value, f"{prefix}{name}.")
    return keys


DEFAULTS = flat(default_config())
CALLED_FOR = (
    "DATASETS.T",
    "DATASETS.FOLDER",
    "MODEL.WEIGHTS_REINIT",
    "SOLVER",
    "MODEL.META",
    "MODEL.BACKBONE.NAME",
    "MODEL.SEM_SEG_HEAD",
    "MODEL.DEVICE",
)
CHECKED = [key for key in DEFAULTS if key.startswith(("DATASETS", "MODEL", "SOLVER", "TEST"))]
KEYS = st.sampled_from(sorted(CHECKED)) | st.sampled_from(sorted(DEFAULTS)) | st.text("A._0 ", max_size=6)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((10**400, float("nan"), float("inf"), "", "-1", "cuda:99", "folder_val", "cityscapes"))
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.dates()
)
VALUES = st.recursive(
    SCALARS,
    lambda values: (
        st.lists(values, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.none(), values, max_size=3)
    ),
    max_leaves=6,
)
OPTIONS = st.lists(
    KEYS
    | VALUES.map(str)
    | st.text(max_size=8)
    | st.sampled_from(
        ("((" * 200, "-" * 5000 + "1", "[" * 3000, "1" * 5000, "{}", "None", "\0", "(1,", "'a'", "_BASE_")
    ),
    max_size=4,
)


@st.composite
def nested(draw: st.DrawFn) -> bytes:
    """A YAML text with some keys of a config."""
    tree: dict = {}
    for key, value in draw(st.lists(st.tuples(KEYS, VALUES), max_size=3)):
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                break
        else:
            node[last] = value
    return yaml.dump(tree, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")


BOMB = "A: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
SECTIONS = "A: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{{', '.join(f'k{i}: *{old}' for i in range(10))}}}\n"
    for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
TEXTS = st.one_of(
    nested(),
    damaged(nested()),
    damaged(st.sampled_from(configs())),
    st.binary(max_size=40),
    st.text("{}[]:-?&*!|>'\"#%@` \nA1,<~", max_size=30).map(str.encode),
)


@example(content=f"{BOMB}SEED: *j\n".encode(), opts=[])
@example(content=f"{SECTIONS}MODEL: *j\n".encode(), opts=[])
@example(content=b"a: &a [*a]\n", opts=[])
@example(content=b"MODEL: &a {x: *a}\n", opts=[])
@example(content=b"_BASE_: [config.yaml, config.yaml]\n", opts=[])
@example(content=b"_BASE_: 3\n", opts=[])
@example(content=b"SEED: !!python/object/apply:os.getcwd []\n", opts=[])
@example(content=b"SEED: " + b"9" * 5000, opts=[])
@example(content=b"SEED: " + b"[" * 3000, opts=[])
@example(content=b"[" * 100_000, opts=[])
@example(content=b"- " * 100_000, opts=[])
@example(content=b"DATASETS: {TRAIN: null}\n", opts=[])
@example(content=b"VERSION: 1\n", opts=[])
@example(content=b"", opts=["MODEL", "{}"])
@given(content=TEXTS, opts=OPTIONS)
def test_a_config_is_checked_or_refused_in_a_sentence(write, cases, content, opts):
    path = write(content, "config.yaml")
    try:
        with cases:
            cfg = setup_cfg(path, opts, device="cpu")
    except (ValueError, OSError) as error:
        check_sentence(error)
    else:
        assert cfg.is_frozen() and cfg.MODEL.DEVICE == "cpu"


USED = [key for key in DEFAULTS if key.startswith(CALLED_FOR)]


@example(settings={"DATASETS.TRAIN": [[]]})
@example(settings={"MODEL.WEIGHTS_REINIT": [{}]})
@given(settings=st.dictionaries(st.sampled_from(USED), VALUES, min_size=1, max_size=2))
def test_a_setting_of_a_shipped_config_is_checked_or_refused_in_a_sentence(miniature_root, cases, settings):
    opts = [str(x) for pair in settings.items() for x in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(miniature_root))
        try:
            with cases:
                setup_cfg(CONFIGS / "miniature" / "mtaclip_tiny.yaml", opts)
        except (ValueError, OSError) as error:
            check_sentence(error)
