"""Pixel decoder and mask-text decoder against the authors' head."""

import torch

from mtaclip.inference.classifier import MaskClassification
from mtaclip.inference.windows import Window


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def test_every_prediction_equals_the_authors(head_file, load_head):
    golden, head = load_head(head_file)
    text = golden["inputs"]["text_embeddings"][:, 0]
    predictions, memories = head.train()(golden["inputs"]["features"], text)

    close(predictions.mask_features, golden["intermediates"]["mask_features"], 1e-4)
    for ours, theirs in zip(memories, golden["intermediates"]["multi_scale_memory"], strict=True):
        close(ours, theirs, 1e-4)
    outputs, initial = golden["outputs"], golden["initial_prediction"]
    for step in range(golden["config"]["dec_layers"] + 1):
        expected = initial if step == 0 else {name: outputs[name][step - 1] for name in initial}
        close(predictions.class_logits[step], expected["cls_logits"], 1e-5)
        close(predictions.similarity[step], expected["similarity"], 2e-6)
        close(predictions.mask_logits(step), expected["mask_logits"], 1e-4)


def test_without_initial_prediction_only_layers_are_recorded(head_file, load_head):
    golden, head = load_head(head_file)
    head.decoder.predict_initial = False
    predictions, _ = head.train()(golden["inputs"]["features"], golden["inputs"]["text_embeddings"][:, 0])
    assert len(predictions.class_logits) == golden["config"]["dec_layers"]
    close(predictions.class_logits[0], golden["outputs"]["cls_logits"][0], 1e-5)


def test_eval_mode_gives_the_last_layer_and_the_window_score(head_file, load_head):
    golden, head = load_head(head_file)
    predictions, _ = head.eval()(golden["inputs"]["features"], golden["inputs"]["text_embeddings"][:, 0])
    assert len(predictions.class_logits) == 1 and predictions.similarity is None
    close(predictions.class_logits[-1], golden["outputs"]["cls_logits"][-1], 1e-5)
    rows, columns = (range(length) for length in golden["config"]["image_size"])
    probabilities = MaskClassification()(predictions.class_logits[-1], None)
    for one, masks, expected in zip(
        probabilities, predictions.mask_logits(), golden["outputs"]["seg_logits"], strict=True
    ):
        close(Window(rows, columns, one, masks).scores(rows, columns), expected, 2e-4)


def test_attention_masks_equal_the_authors(head_file, load_head):
    golden, head = load_head(head_file)
    seen = []
    for layer in head.decoder.layers:
        layer.register_forward_pre_hook(lambda module, args: seen.append(args[4]))
    head.train()(golden["inputs"]["features"], golden["inputs"]["text_embeddings"][:, 0])
    for allowed, blocked in zip(seen, golden["intermediates"]["attn_mask_used"], strict=True):
        assert torch.equal(~allowed, blocked)


def test_only_what_nothing_uses_was_dropped(head_file, load_head):
    _, head = load_head(head_file)
    assert {name.split(".")[1] for name in head.dropped} <= {"lang_embed", "visual_emb_proj"}
