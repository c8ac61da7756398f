"""Tiled label maps against the plain computation, and windows by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mtaclip.inference.canvas import INVALID
from mtaclip.inference.semantic import SemanticInference, SlidingWindow
from mtaclip.inference.windows import Window, window_spans
from tests.inference.plain import plain_scores, plain_windows, resized

QUERIES, CLASSES = 12, 5


def classify(images):
    """A made-up network: masks and classes depend on all that a window shows."""
    batch, _, height, width = images.shape
    quarter = (-(-height // 4), -(-width // 4))
    small = F.interpolate(images.float() / 64 - 2, size=quarter, mode="area")
    mix = torch.linspace(-3, 3, 3 * QUERIES).view(QUERIES, 3)
    masks = torch.einsum("qc,bchw->bqhw", mix, small) + small.mean(dim=(1, 2, 3))[:, None, None, None]
    spread = (torch.arange(QUERIES * (CLASSES + 1)) ** 2 % 7).view(QUERIES, -1)
    logits = spread * (1 + small.mean(dim=(1, 2, 3))[:, None, None])
    return logits.softmax(-1)[..., :-1], 3 * masks


def picture(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=generator) * 255
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0].clamp(0, 255).to(torch.uint8)


def plain(image, size, window=None):
    def score(part):
        return plain_scores(*classify(part), part.shape[-2:])

    scores = score(image[None])[0] if window is None else plain_windows(score, image, window.crop, window.stride)
    return scores if scores.shape[-2:] == size else resized(scores, size)


def check(results, expected):
    for result, scores in zip(results, expected, strict=True):
        torch.testing.assert_close(result["sem_seg"], scores.float(), rtol=0, atol=2e-6)
        best = scores.topk(2, dim=0).values
        clear = best[0] - best[1] > 1e-5
        assert result["labels"].dtype == torch.uint8
        assert torch.equal(result["labels"][clear].long(), scores.argmax(0)[clear])
        assert clear.float().mean() > 0.99


@pytest.mark.parametrize("window", [None, SlidingWindow((64, 96), (43, 64), batch=3)], ids=["whole", "windows"])
@pytest.mark.parametrize(
    ("seen", "size"),
    [
        ((64, 96), (64, 96)),
        ((101, 203), (101, 203)),  # divisible by nothing
        ((131, 257), (300, 589)),  # the result is larger
        ((131, 257), (77, 150)),  # and smaller
        ((40, 300), (53, 301)),  # lower than a window
        ((1, 1), (3, 2)),
    ],
)
def test_scores_and_labels_are_those_of_the_plain_computation(seen, size, window):
    image = picture(*seen)
    check(SemanticInference(window)(classify, [image], [size], [True]), [plain(image, size, window)])


def test_images_of_many_sizes_share_batches():
    sizes = [(90, 130), (70, 100), (90, 130), (64, 96)]
    images = [picture(*size, seed) for seed, size in enumerate(sizes)]
    batches = []

    def counted(part):
        batches.append(tuple(part.shape))
        return classify(part)

    window = SlidingWindow((64, 96), (43, 64), batch=4)
    check(
        SemanticInference(window)(counted, images, sizes, [True] * 4),
        [plain(image, size, window) for image, size in zip(images, sizes, strict=True)],
    )
    assert batches == [(4, 3, 64, 96)] * 3 + [(1, 3, 64, 96)]  # 4 + 4 + 4 + 1 windows
    batches.clear()
    check(
        SemanticInference()(counted, images, sizes, [True] * 4),
        [plain(image, size) for image, size in zip(images, sizes, strict=True)],
    )
    assert sorted(batches) == [(1, 3, 64, 96), (1, 3, 70, 100), (2, 3, 90, 130)]


def test_scores_come_only_where_they_are_wanted():
    results = SemanticInference()(classify, [picture(32, 32)] * 2, [(32, 32)] * 2, [False, True])
    assert [sorted(result) for result in results] == [["labels"], ["labels", "sem_seg"]]
    assert torch.equal(results[0]["labels"], results[1]["labels"])


def test_one_window_is_the_whole_image():
    image, size = picture(60, 90), (60, 90)
    (whole,) = SemanticInference()(classify, [image], [size], [True])
    for crop in ((60, 90), (64, 128)):
        (window,) = SemanticInference(SlidingWindow(crop, (43, 64)))(classify, [image], [size], [True])
        assert torch.equal(window["sem_seg"], whole["sem_seg"])


@pytest.mark.parametrize("window", [None, SlidingWindow((64, 64), (43, 43), batch=2)], ids=["whole", "windows"])
def test_a_constant_image_stays_constant(window):
    image = torch.full((3, 150, 211), 77, dtype=torch.uint8)
    (result,) = SemanticInference(window)(classify, [image], [(201, 290)], [True])
    first = result["sem_seg"][:, :1, :1]
    torch.testing.assert_close(result["sem_seg"], first.expand_as(result["sem_seg"]), rtol=0, atol=1e-6)
    assert len(result["labels"].unique()) == 1


def test_scores_by_hand():
    # One query of class 0 with probability 1/2, its mask everywhere at probability 1/2.
    window = Window(range(4), range(4), torch.tensor([[0.5, 0.0]]), torch.zeros(1, 2, 2))
    scores = window.scores(range(1, 3), range(4))
    assert scores.tolist() == [[[0.25] * 4] * 2, [[0.0] * 4] * 2]


def test_overlaps_are_averaged_by_hand():
    # Width 3, windows of 2 at 0 and 1. Their class probabilities are 1 and 1/2, and all masks cover everything.
    number = iter((1.0, 0.5))

    def classify_by_number(part):
        probability = next(number)
        return torch.tensor([[[probability, 0.0]]]), torch.full((1, 1, *part.shape[-2:]), 1e4)

    inference = SemanticInference(SlidingWindow((1, 2), (1, 1)))
    (result,) = inference(classify_by_number, [torch.zeros(3, 1, 3)], [(1, 3)], [True])
    assert result["sem_seg"][0].tolist() == [[1.0, 0.75, 0.5]]


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(100, 64, 43, [0, 36]), (64, 64, 43, [0]), (50, 64, 43, [0]), (107, 64, 43, [0, 43]), (148, 64, 43, [0, 43, 84])],
)
def test_windows_cover_and_stay_inside(length, window, stride, starts):
    spans = window_spans(length, window, stride)
    assert [span.start for span in spans] == starts
    assert {len(span) for span in spans} == {min(window, length)}
    assert spans[-1].stop == length


@pytest.mark.parametrize("eps", [1e-6, 1e-3, 0.1])
def test_left_out_queries_change_a_score_by_no_more_than_eps(eps):
    torch.manual_seed(0)
    probabilities = torch.rand(100, 20).softmax(-1) * torch.logspace(-6, 0, 100)[:, None]
    masks = F.interpolate(torch.randn(1, 100, 4, 8) * 8 - 6, size=(32, 64), mode="bilinear")[0]
    window = Window(range(128), range(256), probabilities, masks)
    exact, fast = window.scores(range(128), range(256)), window.scores(range(128), range(256), eps)
    error = exact - fast
    assert error.max() <= eps + 1e-6 and error.min() >= -1e-6
    if eps > 1e-3:
        assert error.max() > eps / 100  # something was left out


def test_default_eps_changes_no_label():
    image, size = picture(131, 257), (300, 589)
    (fast,) = SemanticInference(query_eps=1e-5)(classify, [image], [size], [False])
    (exact,) = SemanticInference()(classify, [image], [size], [False])
    assert torch.equal(fast["labels"], exact["labels"])


class LargestTensor(TorchDispatchMode):
    """Notes the most elements that a new tensor of floating-point numbers had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize(
    ("size", "queries", "classes", "window"),
    [
        ((1024, 2048), 100, 19, None),
        pytest.param((4000, 6000), 100, 150, SlidingWindow((512, 512), (341, 341), 4), marks=pytest.mark.slow),
    ],
    ids=["1024x2048, 19 classes", "4000x6000, 150 classes"],
)
def test_no_tensor_of_all_queries_or_classes_has_the_size_of_the_image(size, queries, classes, window):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(queries, classes, generator=generator) ** 9

    def small_masks(images):
        quarter = (images.shape[-2] // 4, images.shape[-1] // 4)
        masks = 9 * torch.randn(queries, 8, 8, generator=generator) - 9
        masks = F.interpolate(masks[None], size=quarter, mode="bilinear")
        return probabilities.expand(len(images), -1, -1), masks.expand(len(images), -1, -1, -1)

    with LargestTensor() as seen:
        (result,) = SemanticInference(window)(small_masks, [torch.zeros(3, *size, dtype=torch.uint8)], [size], [False])
    assert result["labels"].shape == size
    assert seen.elements <= max(queries * 1024 * 2048 // 16, size[0] * size[1])  # masks at stride 4
    assert len(result["labels"].unique()) > 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pixels_whose_scores_are_not_finite_have_no_class(value):
    def broken(images):
        probabilities, masks = classify(images)
        probabilities[..., 0] = value
        return probabilities, masks

    (result,) = SemanticInference()(broken, [picture(32, 32)], [(50, 50)], [False])
    assert (result["labels"] == INVALID).all()


@pytest.mark.parametrize("window", [None, SlidingWindow((64, 96), (43, 64))], ids=["whole", "windows"])
@pytest.mark.parametrize("size", [(1, 130), (200, 5), (3, 3)])
def test_images_smaller_than_the_model_needs_are_continued_by_their_edges(size, window):
    image = picture(*size)
    seen = []

    def noted(part):
        seen.append(min(part.shape[-2:]))
        return classify(part)

    (result,) = SemanticInference(window, smallest=32)(noted, [image], [size], [True])
    assert min(seen) >= 32
    if window is None:
        missing = [0, max(0, 32 - size[1]), 0, max(0, 32 - size[0])]
        padded = F.pad(image[None].float(), missing, mode="replicate")[0].to(torch.uint8)
        expected = plain(padded, tuple(padded.shape[-2:]))[:, : size[0], : size[1]]
        torch.testing.assert_close(result["sem_seg"], expected.float(), rtol=0, atol=2e-6)


def test_settings_that_cannot_work_name_their_key():
    for settings, key in (
        (((64, 64), (65, 64)), r"STRIDE.*between the windows"),
        (((64, 0), (1, 0)), "CROP_SIZE"),
        (((64, 64), (0, 64)), "STRIDE"),
        (((64, 64), (64, 64), 0), "BATCH"),
    ):
        with pytest.raises(ValueError, match=rf"TEST\.SLIDING_WINDOW\.{key}"):
            SlidingWindow(*settings)
    with pytest.raises(ValueError, match=r"TEST\.QUERY_EPS"):
        SemanticInference(query_eps=-1.0)
