import pytest
import torch

from mtaclip.export import ExportableModel, export_program


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("classifier", ["linear", "text", "ensemble"])
@pytest.mark.parametrize("size", [(64, 96), (91, 130)])
def test_labels_and_scores_are_those_of_the_evaluation(make_predictor, classifier, size):
    predictor = make_predictor("mtaclip", "resnet", "TEST.CLASSIFIER", classifier)
    compare_with_evaluation(predictor, noise(2, 3, *size))


@pytest.mark.parametrize(("method", "tower"), [("mask2former", "resnet"), ("mtaclip", "vit"), ("mask2former", "vit")])
def test_every_kind_of_model_has_the_labels_of_its_evaluation(make_predictor, method, tower):
    compare_with_evaluation(make_predictor(method, tower), noise(2, 3, 64, 96))


@torch.no_grad()
def compare_with_evaluation(predictor, images):
    model = ExportableModel(predictor.model)
    labels, scores = model(images)
    assert labels.dtype == torch.uint8 and scores.dtype == torch.float32
    assert len(labels.unique()) > 1
    for result, label_map, image_scores in zip(
        predictor.model([{"image": image, "scores": True} for image in images]), labels, scores, strict=True
    ):
        assert torch.equal(label_map, result["labels"])
        # Resizing in another order has changed 1.6e-5 at most of scores up to 5.
        torch.testing.assert_close(image_scores, result["sem_seg"], rtol=0, atol=5e-5)
    assert torch.equal(model(images.double())[0], labels)


@torch.no_grad()
def test_scores_that_are_not_finite_have_no_label(make_predictor):
    model = ExportableModel(make_predictor().model)
    images = noise(1, 3, 64, 64).float()
    images[0, 0, 0, 0] = float("nan")
    labels, scores = model(images)
    assert not scores.isfinite().any()
    assert (labels == 255).all()


def test_the_text_tower_stays_at_home(make_predictor):
    predictor = make_predictor()
    texts = predictor.model.texts
    model = ExportableModel(predictor.model)
    assert torch.equal(model.text, texts().detach())
    names = {name.split(".")[0] for name in model.state_dict()}
    assert names == {"backbone", "pixel_decoder", "decoder", "pixel_mean", "pixel_std", "text"}


def test_other_classes_are_refused(make_predictor):
    predictor = make_predictor("mtaclip", "resnet", "TEST.VOCABULARY", "'road; puddle'", "TEST.CLASSIFIER", "text")
    with pytest.raises(ValueError, match=r"set TEST\.VOCABULARY to ''"):
        export_program(predictor)


@pytest.mark.parametrize(
    ("key", "value"),
    [("TEST.SLIDING_WINDOW.ENABLED", "True"), ("TEST.AUG.ENABLED", "True"), ("SOLVER.COMPILE", "True")],
)
def test_other_inference_is_refused_with_what_to_set(make_predictor, key, value):
    with pytest.raises(ValueError, match=f"set {key} False"):
        export_program(make_predictor("mtaclip", "resnet", key, value))


def test_a_swin_transformer_needs_a_size(make_predictor):
    with pytest.raises(ValueError, match=r"a Swin Transformer is exported for images of one size: name it \(--height"):
        export_program(make_predictor("mask2former", "swin"))


def test_images_of_a_vit_are_of_whole_patches(make_predictor):
    with pytest.raises(ValueError, match="a multiple of 16 from 64 to 4096 pixels each way, got 96 x 72"):
        export_program(make_predictor("mtaclip", "vit"), (96, 72))


@pytest.mark.parametrize("size", [(63, 128), (128, 4097)])
def test_sizes_out_of_the_limits_are_refused(make_predictor, size):
    with pytest.raises(ValueError, match=f"64 to 4096 pixels each way, got {size[0]} x {size[1]}"):
        export_program(make_predictor(), size)
