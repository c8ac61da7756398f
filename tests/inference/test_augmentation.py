"""Test-time augmentation against single runs."""

import numpy as np
import pytest
import torch

from mtaclip.engine import setup_cfg
from mtaclip.inference.augmentation import AugmentedInference, build_inference
from mtaclip.modeling.build import build_model
from mtaclip.predictor import Predictor

SMALL = ["MODEL.MTACLIP.DECODER.NUM_QUERIES", "8"]
SIZES = (48, 64, 100)


@pytest.fixture
def configure(tmp_path, config_path):
    """Configs of one model with random weights."""

    def make(*opts):
        opts = ["MODEL.WEIGHTS", str(tmp_path / "tiny.pth"), "INPUT.MAX_SIZE_TEST", "140", *SMALL, *opts]
        return setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), opts, device="cpu")

    torch.manual_seed(0)
    cfg = make()
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    return make


@pytest.mark.parametrize("window", [False, True], ids=["whole", "windows"])
@pytest.mark.parametrize("flip", [False, True], ids=["as it is", "and mirrored"])
def test_scores_are_the_plain_average_of_single_runs(configure, flip, window):
    windows = ["TEST.SLIDING_WINDOW.ENABLED", str(window)]
    windows += ["TEST.SLIDING_WINDOW.CROP_SIZE", "(64,64)", "TEST.SLIDING_WINDOW.STRIDE", "(43,43)"]
    image = np.random.default_rng(0).integers(0, 256, (72, 103, 3), np.uint8)
    runs = []
    for size in SIZES:
        predictor = Predictor(configure(*windows, "INPUT.MIN_SIZE_TEST", str(size)))
        runs.append(predictor(image, scores=True).scores)
        if flip:
            runs.append(predictor(image[:, ::-1], scores=True).scores.flip(-1))
    assert len({run.shape for run in runs}) == 1
    augmented = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", str(SIZES), "TEST.AUG.MAX_SIZE", "140"]
    found = Predictor(configure(*windows, *augmented, "TEST.AUG.FLIP", str(flip)))(image, scores=True)
    expected = torch.stack(runs).mean(dim=0)
    torch.testing.assert_close(found.scores, expected, rtol=0, atol=1e-6)
    assert np.array_equal(found.labels, found.scores.argmax(0).numpy())


def test_without_it_the_model_is_left_alone(configure):
    model = torch.nn.Identity()
    assert build_inference(configure(), model) is model


@pytest.mark.parametrize(("sizes", "longest"), [((), 100), ((0,), 100), ((50,), 0)])
def test_sizes_that_are_none_name_their_key(sizes, longest):
    with pytest.raises(ValueError, match=r"TEST\.AUG\.MIN_SIZES"):
        AugmentedInference(torch.nn.Identity(), sizes, longest, flip=True)


def test_the_mode_of_the_model_is_that_of_its_wrapper():
    for mode in (True, False):
        wrapper = AugmentedInference(torch.nn.Identity().train(mode), SIZES, 100, flip=True)
        assert wrapper.training == wrapper.train(wrapper.training).model.training == mode
