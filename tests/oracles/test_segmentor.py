"""The whole segmentor with sliding windows against the authors'."""

import open_clip
import torch

from mtaclip.checkpoint.loading import load_state
from mtaclip.checkpoint.released import convert_released
from mtaclip.inference.classifier import MaskClassification
from mtaclip.inference.semantic import SemanticInference, SlidingWindow
from mtaclip.modeling.clip_backbone import CLIPResNet
from mtaclip.modeling.mask_text_decoder import MaskTextDecoder
from mtaclip.modeling.meta_arch import MTACLIP
from mtaclip.modeling.pixel_decoder import PixelDecoder
from mtaclip.modeling.text_encoder import CLIPTextEncoder, PromptedTexts


def build(golden: dict) -> MTACLIP:
    config, head, tower, text = (golden["config"], *(golden["config"][k] for k in ("head", "backbone", "text_encoder")))
    clip = open_clip.CLIP(
        embed_dim=text["embed_dim"],
        quick_gelu=True,
        vision_cfg={
            "layers": tower["layers"],
            "width": tower["width"],
            "image_size": tower["input_resolution"],
            "patch_size": None,
            "head_width": tower["width"] * 32,
        },
        text_cfg={
            "context_length": text["context_length"],
            "vocab_size": text["vocab_size"],
            "width": text["transformer_width"],
            "heads": text["transformer_heads"],
            "layers": text["transformer_layers"],
        },
    )
    backbone = CLIPResNet(clip.visual)
    contexts = golden["state_dict"]["contexts"]
    texts = PromptedTexts(
        CLIPTextEncoder(clip, text["context_length"]),
        golden["class_names"],
        num_contexts=head["n_contexts"],
        context_length=contexts.shape[1],
        token_length=config["text_tokens"],
    )
    texts.tokens = golden["token_ids"]
    model = MTACLIP(
        backbone=backbone,
        in_features=["res2", "res3", "res4", "res5"],
        pixel_decoder=PixelDecoder(
            backbone.output_shape(),
            dim=head["feat_channels"],
            layers=head["enc_layers"],
            heads=head["num_heads"],
            points=head["num_points_deform"],
            ffn_dim=head["enc_ffn"],
            norm_groups=head["gn_groups"],
        ),
        decoder=MaskTextDecoder(
            num_classes=head["num_classes"],
            num_queries=head["num_queries"],
            dim=head["feat_channels"],
            layers=head["dec_layers"],
            heads=head["num_heads"],
            ffn_dim=head["dec_ffn"],
            num_contexts=head["n_contexts"],
            text_dim=head["text_dim"],
        ),
        texts=texts,
        criterion=None,
        pixel_mean=config["mean"],
        pixel_std=config["std"],
        ignore_label=255,
        train_size=tuple(config["crop"]),
        inference=SemanticInference(SlidingWindow(tuple(config["crop"]), tuple(config["stride"]), batch=2)),
        classification=MaskClassification(),
    )
    converted = convert_released(golden["state_dict"]).state
    load_state(model, converted, "golden segmentor")
    return model.eval()


@torch.no_grad()
def test_labels_and_scores_of_whole_images(e2e_file):
    golden = torch.load(e2e_file, weights_only=True)
    model = build(golden)
    torch.testing.assert_close(model.texts(), golden["text_embeddings"][:, 0], rtol=0, atol=1e-5)
    for run in golden["runs"]:
        height, width = run["ori_shape"]
        rgb = run["image_bgr_uint8"].flip(0)
        (result,) = model([{"image": rgb, "height": height, "width": width, "scores": True}])
        torch.testing.assert_close(result["sem_seg"], run["seg_logits"], rtol=0, atol=2e-4)
        assert torch.equal(result["labels"].long(), run["pred"][0].long())


@torch.no_grad()
def test_first_window(e2e_file):
    golden = torch.load(e2e_file, weights_only=True)
    model = build(golden)
    crop = golden["config"]["crop"]
    for run in golden["runs"]:
        window = run["image_bgr_uint8"].flip(0)[:, : crop[0], : crop[1]]
        (result,) = model([{"image": window, "scores": True}])
        torch.testing.assert_close(result["sem_seg"], run["first_window_logits"][0], rtol=0, atol=2e-4)


def test_training_images_are_normalised_then_padded(e2e_file):
    golden = torch.load(e2e_file, weights_only=True)
    model, sample = build(golden), golden["train_preprocess"]
    seen = {}
    model.predict = lambda images: seen.setdefault("images", images)
    model.criterion = lambda predictions, targets, divisors: seen.setdefault("labels", targets.labels)
    model.criterion.num_classes = golden["config"]["head"]["num_classes"]
    model.training = True
    model([{"image": sample["image_bgr_uint8"].flip(0), "sem_seg": sample["labels"][0].to(torch.uint8)}])
    torch.testing.assert_close(seen["images"], sample["inputs"], rtol=0, atol=1e-5)
    assert torch.equal(seen["labels"].long(), sample["padded_labels"])
