"""Equal for the same labels, however the model is laid out and wrapped; another for other weights or settings."""

import pytest
import torch

from mtaclip.engine import setup_cfg
from mtaclip.engine.evaluation import unwrapped
from mtaclip.evaluation.fingerprint import fingerprint


def make_model() -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    model.register_parameter("scale", torch.nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16)))
    model.register_buffer("mean", torch.zeros(3), persistent=False)
    return model


@pytest.fixture
def cfg(config_path):
    """A function from options to a configuration."""
    return lambda *options: setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), options, device="cpu")


def test_layout_and_wrapper_do_not_matter(cfg, free_url):
    expected = fingerprint(cfg(), make_model())
    assert fingerprint(cfg(), make_model().to(memory_format=torch.channels_last)) == expected
    torch.distributed.init_process_group("gloo", init_method=free_url, rank=0, world_size=1)
    try:
        assert fingerprint(cfg(), unwrapped(torch.nn.parallel.DistributedDataParallel(make_model()))) == expected
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.running_mean", "scale", "mean"])
def test_every_tensor_matters(cfg, name):
    before, model = fingerprint(cfg(), make_model()), make_model()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        tensors[name].view(-1)[0] += 0.5
    after = fingerprint(cfg(), model)
    assert after["weights"] != before["weights"] and after["settings"] == before["settings"]


@pytest.mark.parametrize(
    ("options", "same"),
    [
        (["MODEL.MTACLIP.DECODER.HEADS", "2"], False),
        (["INPUT.MIN_SIZE_TEST", "64"], False),
        (["TEST.SLIDING_WINDOW.STRIDE", "(64, 64)"], False),
        (["SOLVER.AMP.ENABLED", "True"], False),
        (["SOLVER.TF32", "True"], False),
        (["MODEL.WEIGHTS", "model_best.pth"], True),
        (["MODEL.WEIGHTS_ALLOW_PICKLE", "True", "MODEL.CLIP.CACHE_DIR", "elsewhere"], True),
        (["TEST.EVAL_PERIOD", "7"], True),
        (["TEST.BOUNDARY_IOU", "True"], True),
        (["TEST.SAVE_PREDICTIONS", "True"], True),
        (["TEST.EXPECTED_RESULTS", "[['sem_seg', 'mIoU', 45.0, 0.5]]"], True),
        (["INPUT.MIN_SIZE_TRAIN", "(64,)", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "elsewhere"], True),
    ],
)
def test_settings_matter_if_labels_depend_on_them(cfg, options, same):
    model = make_model()
    assert (fingerprint(cfg(*options), model) == fingerprint(cfg(), model)) == same
