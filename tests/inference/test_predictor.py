from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import Tensor, nn

from mtaclip import add_mtaclip_config
from mtaclip.inference.predictor import Predictor


@META_ARCH_REGISTRY.register()
class PredictorTestModel(nn.Module):
    """Class scores are a learned mix of the colour channels; with identity weights, class = brightest channel."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.clip_weights = cfg.MODEL.CLIP.PRETRAINED
        self.seen: list[tuple[int, ...]] = []

    def forward(self, inputs: list[dict]) -> list[dict[str, Tensor]]:
        assert not self.training
        outputs = []
        for item in inputs:
            assert item["image"].dtype == torch.uint8
            self.seen.append(tuple(item["image"].shape))
            scores = self.mix(item["image"].float()[None])
            scores = nn.functional.interpolate(scores, size=(item["height"], item["width"]), mode="nearest")
            outputs.append({"sem_seg": scores[0]})
        return outputs


def make_cfg(folder: Path, weight: Tensor | None = None) -> CfgNode:
    """A config whose weight file holds `weight`, (3, 3), as the mix of channels; the identity by default."""
    cfg = get_cfg()
    add_mtaclip_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "PredictorTestModel"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = str(folder / "model.pth")
    cfg.INPUT.MIN_SIZE_TEST = 20
    cfg.INPUT.MAX_SIZE_TEST = 1000
    cfg.freeze()
    mix = torch.eye(3) if weight is None else weight
    torch.save({"model": {"mix.weight": mix[:, :, None, None]}}, cfg.MODEL.WEIGHTS)
    return cfg


def stripes() -> np.ndarray:
    """(40, 120, 3): a red, a green and a blue third."""
    image = np.zeros((40, 120, 3), dtype=np.uint8)
    for channel in range(3):
        image[:, 40 * channel : 40 * (channel + 1), channel] = 255
    return image


def test_every_kind_of_image_is_read_as_rgb(tmp_path):
    predictor = Predictor(make_cfg(tmp_path))
    image = stripes()
    file = tmp_path / "stripes.png"
    Image.fromarray(image).save(file)
    kinds = {
        "path": file,
        "text": str(file),
        "PIL": Image.fromarray(image),
        "PIL with alpha": Image.fromarray(image).convert("RGBA"),
        "array": image,
        "array with negative strides": np.ascontiguousarray(image[..., ::-1])[..., ::-1],
        "tensor": torch.from_numpy(image).permute(2, 0, 1),
    }
    for name, kind in kinds.items():
        prediction = predictor(kind)
        assert prediction.labels.dtype == np.uint8
        assert prediction.labels.shape == (40, 120), name
        assert prediction.labels[20, [20, 60, 100]].tolist() == [0, 1, 2], name
        assert prediction.scores.shape == (3, 40, 120)
        assert not prediction.scores.requires_grad


@pytest.mark.parametrize(
    ("max_size", "seen"),
    [
        (1000, (3, 20, 60)),  # short edge 40 -> 20
        (30, (3, 10, 30)),  # long edge 120 -> 30
    ],
)
def test_the_model_sees_the_test_size_and_the_result_has_the_original_one(tmp_path, max_size, seen):
    cfg = make_cfg(tmp_path).clone()
    cfg.defrost()
    cfg.INPUT.MAX_SIZE_TEST = max_size
    predictor = Predictor(cfg)
    assert predictor(stripes()).labels.shape == (40, 120)
    assert predictor._model.seen == [seen]


def test_clips_own_weights_are_not_fetched_and_the_config_stays_as_it_is(tmp_path):
    cfg = make_cfg(tmp_path)
    before = cfg.dump()
    assert Predictor(cfg)._model.clip_weights == ""
    assert cfg.dump() == before
    assert cfg.is_frozen()


def test_without_weights_nothing_is_predicted(tmp_path):
    cfg = make_cfg(tmp_path).clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""
    with pytest.raises(ValueError, match=r"MODEL\.WEIGHTS is empty"):
        Predictor(cfg)
    cfg.MODEL.WEIGHTS = str(tmp_path / "missing.pth")
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        Predictor(cfg)


def test_an_unknown_device_names_the_key(tmp_path):
    cfg = make_cfg(tmp_path).clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "gpu"
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE: 'gpu'"):
        Predictor(cfg)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path):
    cfg = make_cfg(tmp_path).clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cuda"
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cuda'.*cpu"):
        Predictor(cfg)


def test_scores_that_are_not_finite_are_refused(tmp_path):
    weight = torch.eye(3)
    weight[1, 1] = float("nan")
    with pytest.raises(ValueError, match=r"nan or infinite.*MODEL\.WEIGHTS"):
        Predictor(make_cfg(tmp_path, weight))(stripes())


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4), np.uint8), ValueError),
        (np.zeros((4, 4, 3), np.float32), ValueError),
        (np.zeros((3, 4, 4), np.uint8), ValueError),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), ValueError),
        (torch.zeros(3, 4, 4), ValueError),
        (Image.new("I", (4, 4)), ValueError),
        ([[0]], TypeError),
    ],
)
def test_other_arrays_are_refused(tmp_path, image, error):
    with pytest.raises(error, match="must be"):
        Predictor(make_cfg(tmp_path))(image)
