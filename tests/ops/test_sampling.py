import pytest
import torch
import torch.nn.functional as F

from mtaclip.ops.sampling import sample_bilinear


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_samples_by_hand(deterministic):
    """The centre of two by two pixels is their mean; a corner of the map has a quarter of its pixel."""
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]], requires_grad=True)
    samples = sample_bilinear(maps, torch.tensor([[[[0.0, 0.0], [-1.0, -1.0], [0.5, 0.5], [3.0, 0.0]]]]))
    assert samples.tolist() == [[[[3.0, 0.25, 6.0, 0.0]]]]
    samples[..., 0].backward()
    assert maps.grad.tolist() == [[[[0.25, 0.25], [0.25, 0.25]]]]


def test_values_and_gradients_are_those_of_grid_sample(deterministic):
    """Points within, at and beyond the edges, and on the centres of pixels, where the slope changes."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    grid = torch.rand(2, 40, 4, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    grid[:, 0] = torch.tensor([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0], [1e30, 0.0]])
    results = []
    for function in (sample_bilinear, lambda m, g: F.grid_sample(m, g, align_corners=False)):
        inputs = [maps.clone().requires_grad_(), grid.clone().requires_grad_()]
        samples = function(*inputs)
        results.append([samples, *torch.autograd.grad((samples * samples.detach().cos()).sum(), inputs)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_what_is_not_finite_reaches_the_same_samples(deterministic):
    """A pixel that is infinite reaches no point that does not touch it, and a point without a place has no value."""
    maps = torch.ones(1, 1, 3, 3)
    maps[..., 0, 0] = float("inf")
    points = [[-1.0, 1.0], [1.0, 0.0], [2.0, 2.0], [float("nan"), 0.0], [0.0, float("inf")]]
    grid = torch.tensor([[points]])
    ours = sample_bilinear(maps.clone().requires_grad_(), grid).detach()
    assert ours[..., :3].tolist() == F.grid_sample(maps, grid, align_corners=False)[..., :3].tolist()
    assert ours[..., 3:].isnan().all()


def test_only_deterministic_gradients_leave_grid_sample(deterministic):
    """On a GPU the gradient of `grid_sample` is refused, so the graph must be without it."""
    maps, grid = torch.randn(1, 1, 4, 4, requires_grad=True), torch.zeros(1, 1, 1, 2)
    assert "GridSampler" not in names_of_graph(sample_bilinear(maps, grid).grad_fn)
    torch.use_deterministic_algorithms(False)
    assert "GridSampler" in names_of_graph(sample_bilinear(maps, grid).grad_fn)


def names_of_graph(node) -> str:
    found, waiting = [], [node]
    while waiting:
        node = waiting.pop()
        found.append(node.name())
        waiting += [before for before, _ in node.next_functions if before is not None]
    return " ".join(found)
