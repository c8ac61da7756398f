"""The whole model through real configs: gradients, edge cases, sizes, autocast."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone

from mtaclip.data.vocabulary import load_vocabulary
from mtaclip.engine import Trainer, setup_cfg

SMALL = [
    "INPUT.CROP.SIZE", "(64,96)",
    "MODEL.MTACLIP.LOSS.NUM_POINTS", "64",
    "MODEL.MTACLIP.DECODER.NUM_QUERIES", "8",
]  # fmt: skip


@pytest.fixture
def build(config_path):
    def make(method="mtaclip", *options):
        torch.manual_seed(0)
        return Trainer.build_model(
            setup_cfg(config_path(f"miniature/{method}_tiny.yaml"), [*SMALL, *options], device="cpu")
        )

    return make


def sample(height=64, width=96, labels=(0, 7, 255)):
    generator = torch.Generator().manual_seed(height)
    choices = torch.tensor(labels, dtype=torch.uint8)
    return {
        "image": torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8),
        "sem_seg": choices[torch.randint(len(labels), (height, width), generator=generator)],
    }


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("mtaclip", ()),
        ("mtaclip", ("MODEL.MTACLIP.CONTRASTIVE.LEARN_TEMPERATURE", "True")),
        ("mask2former", ()),
    ],
)
@pytest.mark.parametrize("labels", [(0, 7, 255), (255,), tuple(range(19))], ids=["some", "none", "more than queries"])
def test_every_trained_parameter_gets_a_finite_gradient(build, method, options, labels, dtype):
    model = build(method, *options)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        losses = model([sample(labels=labels), sample(labels=labels)])
    sum(losses.values()).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.isfinite().all()] == []
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert all(name.startswith("texts.encoder.") for name in frozen)


@torch.no_grad()
def test_scores_have_the_asked_size_whatever_the_image_has(build):
    model = build().eval()
    inputs = [sample(50, 75) | {"height": 101, "width": 152, "scores": True}, sample(64, 97) | {"scores": True}]
    results = model(inputs)
    assert [tuple(r["labels"].shape) for r in results] == [(101, 152), (64, 97)]
    assert [tuple(r["sem_seg"].shape) for r in results] == [(19, 101, 152), (19, 64, 97)]
    alone = model(inputs[:1])
    torch.testing.assert_close(alone[0]["sem_seg"], results[0]["sem_seg"])


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 2), (31, 31)])
def test_images_may_be_thin(build, size):
    (result,) = build().eval()([sample(*size)])
    assert result["labels"].shape == size and result["labels"].max() < 19


@torch.no_grad()
def test_one_large_window_is_the_whole_image(build):
    whole = build().eval()
    window = build("mtaclip", "TEST.SLIDING_WINDOW.ENABLED", "True").eval()
    image = [sample() | {"scores": True}]
    torch.testing.assert_close(window(image)[0]["sem_seg"], whole(image)[0]["sem_seg"])


@torch.no_grad()
def test_texts_are_read_once_for_all_images_and_windows(build):
    sliding = {"ENABLED": "True", "CROP_SIZE": "(48,64)", "STRIDE": "(32,43)"}
    model = build("mtaclip", *(x for k, v in sliding.items() for x in (f"TEST.SLIDING_WINDOW.{k}", v))).eval()
    read = []
    model.texts.encoder.register_forward_hook(lambda *_: read.append(1))
    for size in ((64, 97), (101, 152)):
        model([sample(*size), sample(*size)])
    assert len(read) == 1


@torch.no_grad()
@pytest.mark.parametrize("classifier", ["text", "ensemble"])
def test_texts_can_classify_masks(build, classifier):
    image = [sample() | {"scores": True}]
    linear = build().eval()(image)[0]["sem_seg"]
    model = build("mtaclip", "TEST.CLASSIFIER", classifier).eval()
    scores = model(image)[0]["sem_seg"]
    assert not torch.allclose(scores, linear)
    names = load_vocabulary("cityscapes", 19)
    model.texts.set_texts([*reversed(names), "none"])  # queries of texts have learned positions, which stay
    assert not torch.allclose(model(image)[0]["sem_seg"], scores)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.no_grad()
def test_the_host_waits_for_nothing_but_the_result(build):
    windows = ["TEST.SLIDING_WINDOW.ENABLED", "True", "INPUT.CROP.SIZE", "(512,512)"]
    model = build("mtaclip", *windows).eval().cuda()
    images = [sample(700, 1000), sample(512, 512) | {"height": 300, "width": 400}]
    for item in images:
        item["image"] = item["image"].pin_memory()
    expected = [result["labels"].cpu() for result in model(images)]  # reads the texts, compiles what is compiled
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = model(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(r["labels"].cpu(), labels) for r, labels in zip(results, expected, strict=True))


def test_a_model_without_texts_cannot_be_asked_for_them(build):
    with pytest.raises(ValueError, match=r"TEST\.CLASSIFIER is 'text', but the model has no text side"):
        build("mask2former", "TEST.CLASSIFIER", "text")


def test_small_crops_are_padded_and_large_ones_refused(build):
    model = build()
    assert all(value.isfinite() for value in model([sample(40, 96), sample(64, 30)]).values())
    with pytest.raises(ValueError, match=r"65 x 96.*INPUT\.CROP\.SIZE \(64, 96\)"):
        model([sample(65, 96)])


@torch.no_grad()
def test_renaming_classes_in_another_order_permutes_the_text_side(build):
    model = build().eval()
    before = model.texts()
    names = load_vocabulary("cityscapes", 19)
    model.texts.set_texts([*reversed(names), "none"])
    torch.testing.assert_close(model.texts()[:, :-1], before[:, :-1].flip(1))


class Pyramid(Backbone):
    """A backbone from outside the project, under its own map names."""

    def __init__(self):
        super().__init__()
        self.convs = torch.nn.ModuleDict({f"p{i}": torch.nn.Conv2d(3, 8, 1, stride=2**i) for i in range(2, 6)})

    def output_shape(self):
        return {name: ShapeSpec(channels=8, stride=2 ** int(name[1])) for name in self.convs}

    def forward(self, images):
        return {name: conv(images) for name, conv in self.convs.items()}


def build_test_pyramid(cfg, input_shape):
    return Pyramid()


def test_any_detectron2_backbone_works(build):
    if "build_test_pyramid" not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(build_test_pyramid)
    options = ["MODEL.BACKBONE.NAME", "build_test_pyramid", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2','p3','p4','p5']"]
    losses = build("mtaclip", *options)([sample()])
    assert all(value.isfinite() for value in losses.values())
