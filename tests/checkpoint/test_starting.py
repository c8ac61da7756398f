"""MODEL.WEIGHTS_REINIT: named parts of a model start anew, everything else is the checkpoint's or is refused."""

import os
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from safetensors.torch import save_file
from torch import Tensor, nn

from mtaclip.checkpoint import Checkpointer
from mtaclip.engine import setup_cfg
from mtaclip.modeling.build import build_model
from mtaclip.predictor import Predictor

POSITIONS = "decoder.query_position"
CLIP_POSITIONS = "texts.encoder.positional_embedding"
CLASSES, QUERIES, CONTEXTS, CONTEXT_LENGTH, TOKEN_LENGTH = 19, 30, 2, 4, 5  # of the miniature


@pytest.fixture
def make(config_path, tmp_path):
    """A function that builds a small model from keys and values, never twice with the same numbers."""
    seeds = iter(range(100))
    (tmp_path / "three.txt").write_text("road\nsky\nperson\n")

    def build(*opts: str, method: str = "mtaclip") -> nn.Module:
        torch.manual_seed(next(seeds))
        return build_model(config(config_path, method, *opts))

    return build


def config(config_path, method: str, *opts: str) -> CfgNode:
    datasets = ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"]
    return setup_cfg(config_path(f"miniature/{method}_tiny.yaml"), [*datasets, *opts], device="cpu")


@pytest.fixture
def three(tmp_path):
    """Options for three classes."""
    return ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.MTACLIP.TEXT.VOCABULARY", str(tmp_path / "three.txt")]


def start(model: nn.Module, source: nn.Module, folder: Path, *parts: str) -> tuple[dict, dict, dict]:
    """Start `model` from the weights of `source`; the states of both and what the first was built with."""
    built = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.save({"model": source.state_dict()}, folder / "source.pth")
    Checkpointer(model).resume_or_load(str(folder / "source.pth"), resume=False, reinit=parts)
    return model.state_dict(), source.state_dict(), built


def same(one: dict[str, Tensor], other: dict[str, Tensor], *but: str) -> None:
    """Every tensor but those whose names begin so is equal."""
    assert [key for key in one if not key.startswith(but) and not torch.equal(one[key], other[key])] == []


def test_other_classes(make, three, tmp_path, log):
    now, source, built = start(make(*three), make(), tmp_path, "classes")
    assert torch.equal(now["decoder.class_head.weight"], built["decoder.class_head.weight"])
    assert now["decoder.class_head.weight"].shape[0] == 4
    assert torch.equal(now[POSITIONS][:QUERIES], source[POSITIONS][:QUERIES]), "mask queries stay where they were"
    assert torch.equal(now[POSITIONS][QUERIES:], built[POSITIONS][QUERIES:])
    same(now, source, "decoder.class_head.", POSITIONS)
    (table,) = [message for message in log if "WEIGHTS_REINIT" in message]
    lines = {line.split()[0]: line for line in table.splitlines() if line.startswith("decoder.")}
    assert set(lines) == {"decoder.class_head.bias", "decoder.class_head.weight", POSITIONS}
    assert "(20, 64)" in lines["decoder.class_head.weight"] and "(4, 64)" in lines["decoder.class_head.weight"]
    assert "(70, 64)" in lines[POSITIONS] and "(38, 64)" in lines[POSITIONS] and "rows that fit" in lines[POSITIONS]


def test_as_many_classes_with_other_meanings_start_anew_too(make, tmp_path):
    now, source, built = start(make(), make(), tmp_path, "classes")
    assert torch.equal(now["decoder.class_head.weight"], built["decoder.class_head.weight"])
    assert torch.equal(now[POSITIONS][QUERIES:], built[POSITIONS][QUERIES:])
    same(now, source, "decoder.class_head.", POSITIONS)


def test_longer_class_texts_take_more_of_clips_positions(make, three, tmp_path):
    rows = CONTEXT_LENGTH + TOKEN_LENGTH
    longer = make(*three, "MODEL.MTACLIP.TEXT.TOKEN_LENGTH", "8")
    now, source, built = start(longer, make(), tmp_path, "classes")
    assert torch.equal(now[CLIP_POSITIONS][:rows], source[CLIP_POSITIONS])
    assert torch.equal(now[CLIP_POSITIONS][rows:], built[CLIP_POSITIONS][rows:]) and len(now[CLIP_POSITIONS]) == 12
    shorter = make(*three, "MODEL.MTACLIP.TEXT.TOKEN_LENGTH", "4")
    now, source, _ = start(shorter, make(), tmp_path, "classes")
    assert torch.equal(now[CLIP_POSITIONS], source[CLIP_POSITIONS][: rows - 1])


def test_clips_positions_are_said_to_be_loaded_where_they_are(make, three, tmp_path, log):
    """As both models have CLIP's, they are equal, whatever is loaded."""
    for length, said in (("5", []), ("4", ["rows that fit are loaded"])):
        model, source = make(*three, "MODEL.MTACLIP.TEXT.TOKEN_LENGTH", length), make()
        positions = source.state_dict()[CLIP_POSITIONS]
        model.state_dict()[CLIP_POSITIONS].copy_(positions[: CONTEXT_LENGTH + int(length)])
        start(model, source, tmp_path, "classes")
        table = [message for message in log if "WEIGHTS_REINIT" in message][-1]
        rows = [line for line in table.splitlines() if line.startswith(CLIP_POSITIONS)]
        assert [words for line in rows for words in said if words in line] == said and len(rows) == len(said)


def test_another_number_of_queries(make, tmp_path):
    now, source, built = start(make("MODEL.MTACLIP.DECODER.NUM_QUERIES", "20"), make(), tmp_path, "queries")
    assert torch.equal(now["decoder.query_content"], built["decoder.query_content"])
    assert torch.equal(now[POSITIONS][:20], built[POSITIONS][:20])
    assert torch.equal(now[POSITIONS][20:], source[POSITIONS][QUERIES:])
    same(now, source, "decoder.query_content", POSITIONS)


def test_other_contexts(make, tmp_path):
    opts = ["MODEL.MTACLIP.TEXT.NUM_CONTEXTS", "3", "MODEL.MTACLIP.TEXT.CONTEXT_LENGTH", "6"]
    now, source, built = start(make(*opts), make(), tmp_path, "contexts")
    assert torch.equal(now["texts.contexts"], built["texts.contexts"]) and now["texts.contexts"].shape[:2] == (3, 6)
    assert torch.equal(now[POSITIONS][:QUERIES], source[POSITIONS][:QUERIES])
    assert len(now[POSITIONS]) == QUERIES + 3 * (CLASSES + 1)
    same(now, source, "texts.contexts", POSITIONS, CLIP_POSITIONS)


def test_a_text_side_on_a_baseline(make, tmp_path, log):
    now, source, built = start(make(), make(method="mask2former"), tmp_path, "text")
    assert torch.equal(now[POSITIONS][:QUERIES], source[POSITIONS])
    assert torch.equal(now[POSITIONS][QUERIES:], built[POSITIONS][QUERIES:])
    same(source, now, POSITIONS)
    same({key: now[key] for key in now if key not in source}, built)
    (table,) = [message for message in log if "WEIGHTS_REINIT" in message]
    assert "decoder.alignment.gamma" in table and "texts.encoder.* (" in table


def test_several_parts_at_once(make, three, tmp_path):
    model = make(*three, "MODEL.MTACLIP.DECODER.NUM_QUERIES", "7")
    now, source, built = start(model, make(method="mask2former"), tmp_path, "queries", "classes", "text")
    assert torch.equal(now[POSITIONS], built[POSITIONS])
    assert torch.equal(now["decoder.layers.2.ffn_norm.weight"], source["decoder.layers.2.ffn_norm.weight"])


@pytest.mark.parametrize(
    ("opts", "parts", "words"),
    [
        (["MODEL.MTACLIP.DECODER.NUM_QUERIES", "20"], ["classes"], r"query_content \(30, 64\) instead of \(20, 64\)"),
        (
            ["MODEL.MTACLIP.TEXT.NUM_CONTEXTS", "3"],
            ["queries"],
            r"contexts \(2, 4, 64\) instead of \(3, 4, 64\)",
        ),
        (["MODEL.MTACLIP.DECODER.LAYERS", "4"], ["classes"], r"missing \(decoder\.layers\.3\."),
        (["MODEL.MTACLIP.HIDDEN_DIM", "32"], ["classes", "queries"], "does not fit the model"),
        ([], ["class"], "MODEL.WEIGHTS_REINIT: 'class' is none of 'classes', 'queries', 'contexts', 'text'"),
    ],
)
def test_everything_else_must_fit(make, tmp_path, opts, parts, words):
    with pytest.raises(ValueError, match=words):
        start(make(*opts), make(), tmp_path, *parts)


def test_without_the_key_nothing_starts_anew(make, three, tmp_path):
    with pytest.raises(ValueError, match=r"class_head\.weight \(20, 64\) instead of \(4, 64\)"):
        start(make(*three), make(), tmp_path)


def test_a_part_that_the_model_does_not_have(make, tmp_path):
    with pytest.raises(ValueError, match=r"names 'text', which the model does not have .*TEXT\.ENABLED"):
        start(make(method="mask2former"), make(), tmp_path, "text")


def test_a_run_is_resumed_from_what_fits_only(make, three, tmp_path):
    Checkpointer(make(), str(tmp_path)).save("model_0000001")
    with pytest.raises(ValueError, match=r"model_0000001\.pth does not fit"):
        Checkpointer(make(*three), str(tmp_path)).resume_or_load("", resume=True, reinit=["classes"])


def test_a_prediction_needs_every_tensor(config_path, make, three, tmp_path):
    """But a checkpoint of a training that began with the key has everything."""
    torch.save({"model": make().state_dict()}, tmp_path / "model.pth")
    cfg = config(
        config_path, "mtaclip", "MODEL.WEIGHTS", str(tmp_path / "model.pth"), "MODEL.WEIGHTS_REINIT", "('classes',)"
    )
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS_REINIT \('classes',\) is for the start of a training"):
        Predictor(cfg)
    Checkpointer(make(), str(tmp_path), config=cfg).save("model_final")
    Predictor.from_checkpoint(tmp_path / "model_final.pth", device="cpu")


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_the_config_in_a_strangers_checkpoint_cannot_allow_pickles(config_path, make, tmp_path):
    harm = tmp_path / "harm"
    torch.save({"visual.proj": Payload(harm)}, tmp_path / "clip.pt")
    opts = ["MODEL.WEIGHTS_ALLOW_PICKLE", "True", "MODEL.WEIGHTS", "any.pth", "MODEL.WEIGHTS_REINIT", "('text',)"]
    cfg = config(config_path, "mtaclip", *opts, "MODEL.CLIP.PRETRAINED", str(tmp_path / "clip.pt"))
    Checkpointer(make(), str(tmp_path), config=cfg).save("model_final")
    Predictor.from_checkpoint(tmp_path / "model_final.pth", device="cpu")
    assert not harm.exists()


def test_safetensors_serve_a_predictor_as_a_checkpoint_does(config_path, make, tmp_path):
    cfg = config(config_path, "mtaclip", "MODEL.WEIGHTS", str(tmp_path / "model.safetensors"))
    saved = make()
    save_file(saved.state_dict(), cfg.MODEL.WEIGHTS, metadata={"config": cfg.dump()})
    for predictor in (Predictor(cfg), Predictor.from_checkpoint(cfg.MODEL.WEIGHTS, device="cpu")):
        same(saved.state_dict(), predictor.model.state_dict())


def test_a_pickle_serves_where_the_key_allows_it(config_path, make, tmp_path):
    opts = ["MODEL.WEIGHTS", str(tmp_path / "old.pth")]
    torch.save({"model": make().state_dict(), "args": Path("."), "__author__": "someone"}, tmp_path / "old.pth")
    with pytest.raises(ValueError, match="set MODEL.WEIGHTS_ALLOW_PICKLE True"):
        Predictor(config(config_path, "mtaclip", *opts))
    Predictor(config(config_path, "mtaclip", *opts, "MODEL.WEIGHTS_ALLOW_PICKLE", "True"))
