"""Synonyms by hand, and other classes than the trained ones on hand-built embeddings and through a real config."""

import pytest
import torch
import torch.nn.functional as F

from mtaclip.data.vocabulary import load_vocabulary
from mtaclip.engine import Trainer, setup_cfg
from mtaclip.modeling.clip import build_clip
from mtaclip.modeling.text_encoder import CLIPTextEncoder, PromptedTexts, Synonyms
from mtaclip.modeling.vocabulary import OtherClasses
from mtaclip.structures import Predictions

NAMES = load_vocabulary("cityscapes", 19)
# One context; a class of one text, then one of two: (n, N, D) = (1, 3, 2).
EMBEDDINGS = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [0.0, 5.0]]])


@pytest.fixture(scope="module")
def encoder() -> CLIPTextEncoder:
    torch.manual_seed(0)
    return CLIPTextEncoder(build_clip("mtaclip-tiny"), length=9)


@pytest.fixture
def prompted(encoder):
    def make(texts, synonyms="average") -> PromptedTexts:
        torch.manual_seed(1)
        sizes = {"num_contexts": 2, "context_length": 4, "token_length": 5}
        return PromptedTexts(encoder, texts, synonyms=synonyms, **sizes).eval()

    return make


@pytest.fixture
def build(config_path):
    def make(*options):
        torch.manual_seed(0)
        small = ["INPUT.CROP.SIZE", "(64,96)", "MODEL.MTACLIP.DECODER.NUM_QUERIES", "8"]
        small += ["MODEL.MTACLIP.LOSS.NUM_POINTS", "64"]
        return Trainer.build_model(
            setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), [*small, *map(str, options)], device="cpu")
        )

    return make


def sample() -> dict:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
    return {"image": image, "sem_seg": torch.randint(0, 19, (64, 96), generator=generator, dtype=torch.uint8)}


def test_an_average_has_the_mean_direction_and_the_mean_length():
    # Directions (1, 0) and (0, 1) have the mean direction (1, 1) / sqrt 2; lengths 3 and 5 have the mean 4.
    side = 4 / 2**0.5
    expected = torch.tensor([[[1.0, 2.0], [side, side]]])
    torch.testing.assert_close(Synonyms((1, 2), "average").combine(EMBEDDINGS), expected)


def test_alternatives_are_prompts_and_classes_with_fewer_repeat_theirs():
    expected = torch.tensor([[[1.0, 2.0], [3.0, 0.0]], [[1.0, 2.0], [0.0, 5.0]]])
    assert Synonyms((1, 2), "alternatives").combine(EMBEDDINGS).equal(expected)


@pytest.mark.parametrize("kind", ["average", "alternatives"])
@torch.no_grad()
def test_one_text_per_class_changes_nothing(prompted, kind):
    plain, grouped = prompted(["road", "car", "none"]), prompted([("road",), ("car",), "none"], kind)
    assert grouped().equal(plain())
    assert grouped.num_prompts == 2


@torch.no_grad()
def test_the_average_of_two_equal_texts_is_that_text(prompted):
    torch.testing.assert_close(prompted([("road", "road"), "none"])(), prompted(["road", "none"])())


@torch.no_grad()
def test_alternatives_are_the_texts_behind_every_context(prompted):
    texts = prompted([("car", "auto"), "none"], "alternatives")
    assert texts.num_prompts == 4 and texts.class_texts == ("car", "none")
    first, second = prompted(["car", "none"])(), prompted(["auto", "none"])()
    torch.testing.assert_close(texts(), torch.cat([first, second]))


def test_gradients_reach_the_contexts_through_synonyms(prompted):
    for kind in ("average", "alternatives"):
        texts = prompted([("car", "auto"), "none"], kind).train()
        texts().square().sum().backward()
        assert (texts.contexts.grad.abs().sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"synonyms": "mean"}, "SYNONYMS must be one of .*'average', 'alternatives'.*'mean'"),
        ({"num_contexts": 0}, "NUM_CONTEXTS must be 1 or more, got 0"),
        ({"context_length": 0}, "CONTEXT_LENGTH must be 1 or more, got 0"),
    ],
)
def test_settings_that_cannot_work_name_their_key(encoder, settings, words):
    with pytest.raises(ValueError, match=words):
        PromptedTexts(encoder, ["a", "b"], **{"num_contexts": 2, "context_length": 4, "token_length": 5} | settings)


def made(texts: PromptedTexts, seed: int = 0) -> Predictions:
    """Predictions of two mask queries whose trained texts an image has refined at random, R = B = 1."""
    generator = torch.Generator().manual_seed(seed)
    prompts, classes, dim = texts().shape
    masks = F.normalize(torch.randn(1, 1, 2, dim, generator=generator), dim=-1)
    refined = F.normalize(torch.randn(1, 1, prompts, classes, dim, generator=generator), dim=-1)
    similarity = torch.einsum("rbqe,rbnke->rnbqk", masks, refined)
    nothing = torch.zeros(1)
    return Predictions(nothing, nothing, nothing, similarity, masks, refined)


@torch.no_grad()
def test_trained_classes_keep_what_the_image_made_of_them_and_new_ones_have_their_own_text(prompted):
    texts = prompted(["road", ("car", "auto"), "none"])
    predictions = made(texts)
    found = OtherClasses([("tram",), ("Auto", "car"), ("ROAD",)], texts)(predictions, texts)
    # tram is new, then the trained columns 1, 0 and that of no object.
    assert found.similarity[..., 1:].equal(predictions.similarity[..., [1, 0, 2]])
    tram = F.normalize(prompted(["tram", "none"])()[:, 0], dim=-1)
    torch.testing.assert_close(found.similarity[0, :, 0, :, 0], tram @ predictions.aligned_masks[0, 0].T)
    assert OtherClasses([("car",), ("road",)], texts)(predictions, texts).similarity.equal(
        predictions.similarity[..., [1, 0, 2]]
    )


@torch.no_grad()
def test_alternatives_of_a_new_class_count_by_the_closest(prompted):
    texts = prompted(["road", "car", "none"], "alternatives")
    predictions = made(texts)
    together = OtherClasses([("road",), ("tram", "puddle", "bench")], texts)(predictions, texts).similarity
    assert together.shape[1] == 6
    apart = OtherClasses([("tram",), ("puddle",), ("bench",)], texts)(predictions, texts).similarity
    best = together.amax(dim=1)
    torch.testing.assert_close(best[..., 1], apart.amax(dim=1)[..., :3].amax(dim=-1))
    assert best[..., [0, 2]].equal(predictions.similarity.amax(dim=1)[..., [0, 2]]), "trained: repeated, not changed"


@torch.no_grad()
def test_new_texts_are_read_once_until_the_weights_change(prompted, encoder):
    texts = prompted(["road", "car", "none"])
    other = OtherClasses([("tram",), ("road",)], texts)
    predictions, read = made(texts), []
    hook = encoder.register_forward_hook(lambda *_: read.append(1))
    first = other(predictions, texts).similarity
    assert other(predictions, texts).similarity.equal(first) and len(read) == 1
    texts.contexts.mul_(2)
    texts.load_state_dict(texts.state_dict())
    assert not other(predictions, texts).similarity.equal(first) and len(read) == 2
    hook.remove()


def write(file, *lines):
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@torch.no_grad()
def test_other_classes_decide_label_maps_and_leave_training_alone(build):
    options = ["TEST.CLASSIFIER", "text"]
    trained, other = build(*options), build(*options, "TEST.VOCABULARY", "tram; road; puddle")
    assert other.state_dict().keys() == trained.state_dict().keys()
    torch.manual_seed(0)
    losses = trained([sample()])
    torch.manual_seed(0)
    assert other([sample()]) == losses
    (result,) = other.eval()([sample() | {"scores": True}])
    assert result["sem_seg"].shape == (3, 64, 96) and result["sem_seg"].isfinite().all()
    assert result["labels"].max() < 3
    assert other.class_texts == ("tram", "road", "puddle", "none")


@pytest.mark.parametrize(
    ("contexts", "length", "synonyms"), [(1, 2, "average"), (4, 6, "average"), (2, 4, "alternatives")]
)
def test_other_prompts_train_and_predict(build, tmp_path, contexts, length, synonyms):
    file = write(tmp_path / "own.txt", "road; street; way", *NAMES[1:])
    text = {"NUM_CONTEXTS": contexts, "CONTEXT_LENGTH": length, "VOCABULARY": file, "SYNONYMS": synonyms}
    model = build("TEST.CLASSIFIER", "text", *(x for k, v in text.items() for x in (f"MODEL.MTACLIP.TEXT.{k}", v)))
    prompts = contexts * (3 if synonyms == "alternatives" else 1)
    assert model.texts().shape[:2] == (prompts, 20)
    losses = model([sample()])
    sum(losses.values()).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.no_grad():
        (result,) = model.eval()([sample() | {"scores": True}])
    assert result["sem_seg"].isfinite().all() and result["labels"].max() < 19


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["TEST.CLASSIFIER", "linear"], r"TEST\.VOCABULARY.*set TEST\.CLASSIFIER to 'text'"),
        (["TEST.CLASSIFIER", "ensemble"], r"TEST\.VOCABULARY.*set TEST\.CLASSIFIER to 'text'"),
        (["MODEL.MTACLIP.TEXT.ENABLED", "False"], r"TEST\.VOCABULARY.*take a model with a text side"),
        (
            ["TEST.CLASSIFIER", "text", "TEST.VOCABULARY", "road; a puddle in the rain"],
            "'a puddle in the rain' has 5 tokens, the budget is 3.*TOKEN_LENGTH 7",
        ),
        (
            ["TEST.CLASSIFIER", "text", "TEST.VOCABULARY", "road; None"],
            r"TEST\.VOCABULARY has a class 'none', which is the text of no object",
        ),
        (
            ["TEST.CLASSIFIER", "text", "MODEL.MTACLIP.TEXT.NO_OBJECT", "Sky"],
            r"MODEL\.MTACLIP\.TEXT\.VOCABULARY has a class 'Sky', which is the text of no object",
        ),
    ],
)
def test_vocabularies_that_a_model_cannot_read_are_refused(build, options, words):
    with pytest.raises(ValueError, match=words):
        build("TEST.VOCABULARY", "road; tram", *options)
