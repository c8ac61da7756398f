"""A training step: accumulation, steps that are not finite, the replay of their batches."""

import copy
import math
from pathlib import Path

import pytest
import torch
from detectron2.utils.events import EventStorage

from mtaclip.checkpoint.loading import read_checkpoint
from mtaclip.engine import Trainer, setup_cfg
from mtaclip.engine.optimizer import build_optimizer
from mtaclip.engine.step import NonFiniteError, TrainStep

SMALL = [
    "INPUT.CROP.SIZE", "(64,96)",
    "MODEL.MTACLIP.LOSS.NUM_POINTS", "64",
    "MODEL.MTACLIP.DECODER.NUM_QUERIES", "8",
    "MODEL.CLIP.NORM", "FrozenBN",
]  # fmt: skip


class OwnPoints:
    """Points that depend on the image alone, so that they do not change with the way a batch is divided."""

    def __init__(self, count=64):
        self.count = count

    def for_matching(self, batch, device):
        return torch.rand(1, 1, self.count, 2, generator=torch.Generator().manual_seed(1)).expand(1, batch, -1, -1)

    def for_losses(self, mask_logits, image):
        points = torch.rand(1, self.count, 2, generator=torch.Generator().manual_seed(2))
        return points.expand(len(mask_logits), -1, -1)


@pytest.fixture
def cfg(config_path, tmp_path):
    return setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), [*SMALL, "OUTPUT_DIR", str(tmp_path)], device="cpu")


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    built = Trainer.build_model(cfg)
    built.criterion.points = OwnPoints()
    return built


def sample(number, classes=(0, 7, 255)):
    generator = torch.Generator().manual_seed(number)
    choices = torch.tensor(classes, dtype=torch.uint8)
    return {
        "image": torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8),
        "sem_seg": choices[torch.randint(len(classes), (64, 96), generator=generator)],
        "file_name": f"image_{number}.png",
    }


# Images with different numbers of classes: a mean of the parts' losses would not be the batch's loss.
BATCH = [sample(0), sample(1, (3,)), sample(2, tuple(range(12))), sample(3, (255,))]


def make_step(model, cfg, batches, **options):
    step = TrainStep(
        model, build_optimizer(cfg, model), dtype=None, max_norm=None, output_dir=cfg.OUTPUT_DIR, **options
    )
    step.data_loader = batches
    return step


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("normalizer", ["class_weight_sum", "num_masks"])
def test_a_batch_in_parts_gives_the_same_losses_and_gradients(model, cfg, normalizer):
    model.criterion.mask_normalizer = normalizer
    twin = copy.deepcopy(model)
    with EventStorage() as storage:
        make_step(model, cfg, [BATCH]).run_step(0)
        whole = storage.latest()
    with EventStorage() as storage:
        make_step(twin, cfg, [[item] for item in BATCH], accumulate=4).run_step(0)
        parts = storage.latest()
    assert set(whole) == set(parts) and "loss_mask_text" in whole
    for name in set(whole) - {"data_time"}:
        assert parts[name][0] == pytest.approx(whole[name][0], rel=1e-5), name
    ours, theirs = gradients(twin), gradients(model)
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        scale = gradient.abs().max().clamp(min=1e-12)
        torch.testing.assert_close(ours[name] / scale, gradient / scale, rtol=0, atol=1e-5, msg=name)


def poison(model, name="decoder.class_head.weight"):
    parameter = dict(model.named_parameters())[name]
    with torch.no_grad():
        parameter.view(-1)[0] = math.nan


def test_a_cost_that_is_not_finite_ends_the_training_with_all_that_is_known(model, cfg):
    poison(model)
    with EventStorage(7), pytest.raises(NonFiniteError) as error:
        make_step(model, cfg, [BATCH]).run_step(5)
    for words in ("Iteration 7", "class logits of prediction 0", "image_0.png, image_1.png", "rate 0.002", "scale 1"):
        assert words in str(error.value)
    stored = read_checkpoint(Path(cfg.OUTPUT_DIR) / "nonfinite_0000007_process0.pth")
    assert stored["seed"] == 5 and torch.equal(stored["batches"][0][2]["image"], BATCH[2]["image"])


def test_a_gradient_that_is_not_finite_changes_no_parameter(model, cfg):
    model.decoder.mask_head[0].weight.register_hook(lambda gradient: gradient * math.inf)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = make_step(model, cfg, [BATCH, BATCH], skip_nonfinite=1)
    with EventStorage(3):
        step.run_step(0)
        assert step.skipped == 1
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
        with pytest.raises(NonFiniteError, match=r"gradient of decoder\.mask_head\.0\.weight.*2 such step"):
            step.run_step(1)


def test_steps_are_left_out_and_the_training_goes_on(model, cfg):
    good = model.decoder.class_head.weight.detach().clone()
    step = make_step(model, cfg, [BATCH] * 3, skip_nonfinite=1)
    poison(model)
    with EventStorage() as storage:
        step.run_step(0)
        with torch.no_grad():
            model.decoder.class_head.weight.copy_(good)
        storage.iter = 1
        step.run_step(1)
        latest = storage.latest()
    assert latest["skipped_steps"] == (1, 1) and math.isfinite(latest["total_loss"][0])
    assert not torch.equal(model.decoder.class_head.weight, good)


def test_running_statistics_that_are_not_finite_cannot_be_left_out(config_path, tmp_path):
    options = [*SMALL[:-2], "OUTPUT_DIR", str(tmp_path), "MODEL.CLIP.NORM", "BN"]
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), options, device="cpu")
    model = Trainer.build_model(cfg)
    poison(model, "backbone.tower.conv1.weight")
    with EventStorage(), pytest.raises(NonFiniteError, match=r"running statistics backbone\.tower\.bn1"):
        make_step(model, cfg, [BATCH], skip_nonfinite=9).run_step(0)


REPLAY = "projects/MTACLIP/tools/replay_batch.py"


def test_a_stored_batch_can_be_run_again(model, cfg, config_path, tmp_path, run_script):
    poison(model)
    with EventStorage(2), pytest.raises(NonFiniteError):
        make_step(model, cfg, [[item] for item in BATCH], accumulate=4).run_step(0)
    file = tmp_path / "nonfinite_0000002_process0.pth"
    config = ["--config-file", config_path("miniature/mtaclip_tiny.yaml"), "--device", "cpu"]
    result = run_script(REPLAY, *config, file, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "Iteration 2: the class logits of prediction 0" in result.stdout
    assert "decoder.class_head (Linear) gives NaN or infinity, although its inputs are finite" in result.stdout


def test_the_replay_tool_refuses_other_files(config_path, tmp_path, run_script):
    torch.save({"model": {"weight": torch.zeros(1)}}, tmp_path / "other.pth")
    result = run_script(REPLAY, "--config-file", config_path("miniature/mtaclip_tiny.yaml"), tmp_path / "other.pth")
    assert result.returncode == 2 and "holds no batches" in result.stderr
