from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from PIL import Image
from torch import Tensor, nn

from mtaclip import add_mtaclip_config
from mtaclip.checkpoint import Checkpointer
from mtaclip.engine import setup_cfg
from mtaclip.inference.canvas import most_likely
from mtaclip.modeling.build import build_model
from mtaclip.predictor import Predictor

SMALL = ["MODEL.MTACLIP.DECODER.NUM_QUERIES", "8"]


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
            outputs.append({"labels": most_likely(scores[0])} | ({"sem_seg": scores[0]} if item["scores"] else {}))
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


def on_cpu(cfg: CfgNode) -> CfgNode:
    """A copy of a config for a model on the CPU."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
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
        assert prediction.scores is None
        scores = predictor(kind, scores=True).scores
        assert scores.shape == (3, 40, 120)
        assert not scores.requires_grad


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
        (np.zeros((0, 4, 3), np.uint8), ValueError),
        (torch.zeros(3, 4, 0, dtype=torch.uint8), ValueError),
        (Image.new("I", (4, 4)), ValueError),
        ([[0]], TypeError),
    ],
)
def test_other_arrays_are_refused(tmp_path, image, error):
    with pytest.raises(error, match="must (be|have pixels)"):
        Predictor(make_cfg(tmp_path))(image)


def test_many_threads_may_ask_one_predictor(tmp_path, config_path):
    opts = ["MODEL.WEIGHTS", str(tmp_path / "tiny.pth"), "INPUT.MIN_SIZE_TEST", "0", *SMALL]
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), opts, device="cpu")
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, cfg.MODEL.WEIGHTS)
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 90 - i, 3), np.uint8) for i in range(12)]
    alone = Predictor(cfg)
    expected = [alone(image, scores=True) for image in images]
    shared = Predictor(cfg)  # which has not read its texts yet
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: shared(image, scores=True), images))
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores)


def test_a_checkpoint_is_enough(tmp_path, config_path):
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), ["INPUT.MIN_SIZE_TEST", "48", *SMALL], device="cpu")
    torch.manual_seed(0)
    Checkpointer(build_model(cfg), str(tmp_path), config=cfg).save("model_final", iteration=7)
    file = tmp_path / "model_final.pth"
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(file)
    expected = Predictor(cfg)(image, scores=True)
    found = Predictor.from_checkpoint(file, device="cpu")(image, scores=True)
    assert np.array_equal(found.labels, expected.labels)
    assert torch.equal(found.scores, expected.scores)
    larger = Predictor.from_checkpoint(file, device="cpu", opts=["INPUT.MIN_SIZE_TEST", "0"])(image, scores=True)
    assert not torch.equal(larger.scores, expected.scores)
    for opts, words in (
        (["INPUT.SIZE_TEST", "0"], r"opts: .*INPUT\.SIZE_TEST"),
        (["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "half"], r"SOLVER\.AMP\.DTYPE must be one of .*'half'"),
    ):
        with pytest.raises(ValueError, match=words):
            Predictor.from_checkpoint(file, device="cpu", opts=opts)(image)
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'meta'"):
        Predictor.from_checkpoint(file, device="meta")
    content = torch.load(file, weights_only=True)
    for config in ("- 1\n", "MODEL: [\n", "SEED: " + "[" * 3000, {"SEED": 1}):
        torch.save(content | {"config": config}, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match=r"odd\.pth: its config cannot be used") as caught:
            Predictor.from_checkpoint(tmp_path / "odd.pth", device="cpu")
        assert "\n" not in str(caught.value)
    for key, old in (("META_ARCHITECTURE", "MTACLIP"), ("NAME", "build_clip_backbone")):
        assert f"{key}: {old}\n" in content["config"]
        torch.save(content | {"config": content["config"].replace(f"{key}: {old}\n", f"{key}: x\n")}, file)
        with pytest.raises(ValueError, match=r"model_final\.pth: its config describes no model that can be built"):
            Predictor.from_checkpoint(file, device="cpu")


def test_options_of_the_caller_win_over_the_file_and_the_weights_are_the_files(tmp_path, config_path):
    opts = ["MODEL.WEIGHTS", "x.pth", "MODEL.WEIGHTS_REINIT", "('classes',)", "MODEL.WEIGHTS_ALLOW_PICKLE", "True"]
    cfg = setup_cfg(config_path("miniature/mask2former_tiny.yaml"), [*SMALL, *opts], device="cuda")
    content = {"model": build_model(on_cpu(cfg)).state_dict(), "config": cfg.dump()}
    torch.save(content, tmp_path / "model.pth")
    found = Predictor.from_checkpoint(tmp_path / "model.pth", opts=["MODEL.DEVICE", "cpu"]).cfg.MODEL
    assert (found.DEVICE, found.WEIGHTS_REINIT, found.WEIGHTS_ALLOW_PICKLE) == ("cpu", (), False)
    for options, words in (
        (["MODEL.WEIGHTS_REINIT", "('text',)"], r"MODEL\.WEIGHTS_REINIT \('text',\) is for the start of a training"),
        (["MODEL.WEIGHTS", "other.pth"], r"opts: MODEL\.WEIGHTS is 'other\.pth', but this model has its own"),
        (["MODEL.DEVICE"], "'MODEL.DEVICE', has no value"),
        (["MODEL.DEVICE", "nonsense"], r"MODEL\.DEVICE: 'nonsense'"),
    ):
        with pytest.raises(ValueError, match=words):
            Predictor.from_checkpoint(tmp_path / "model.pth", opts=options)
    torch.save(content | {"extra": Path("x")}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"set MODEL\.WEIGHTS_ALLOW_PICKLE True"):
        Predictor.from_checkpoint(tmp_path / "model.pth", "cpu")
    Predictor.from_checkpoint(tmp_path / "model.pth", "cpu", ["MODEL.WEIGHTS_ALLOW_PICKLE", "True"])


def test_a_checkpoint_without_config_says_what_else_to_do(tmp_path):
    cfg = make_cfg(tmp_path)
    with pytest.raises(ValueError, match=r"holds no config.*Predictor\(cfg\)"):
        Predictor.from_checkpoint(cfg.MODEL.WEIGHTS)


def test_the_model_computes_in_the_type_of_its_evaluation(tmp_path, config_path):
    opts = ["MODEL.WEIGHTS", str(tmp_path / "tiny.pth"), "SOLVER.AMP.ENABLED", "True", *SMALL]
    cfg = setup_cfg(config_path("miniature/mtaclip_tiny.yaml"), opts, device="cpu")
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    predictor = Predictor(cfg)
    types = set()
    predictor._model.decoder.class_head.register_forward_hook(lambda *args: types.add(args[2].dtype))
    predictor(np.zeros((40, 60, 3), np.uint8))
    assert types == {torch.bfloat16}
