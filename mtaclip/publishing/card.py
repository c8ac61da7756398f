"""Model cards: what a published model is, in the form that the Hugging Face Hub reads."""

from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from huggingface_hub import EvalResult, ModelCardData

from mtaclip.evaluation.comparison import Evaluation
from mtaclip.evaluation.report import markdown_table, markdown_text, mean_cells, mean_scores

LIBRARY = "mtaclip"
_TOWERS = {
    "build_clip_backbone": "the image tower of CLIP `{clip}`",
    "build_resnet_backbone": "a ResNet-{depth} as image tower",
    "build_swin_backbone": "a Swin Transformer as image tower",
}


def model_card(
    name: str, cfg: CfgNode, class_names: Sequence[str], evaluations: Sequence[Evaluation], license: str
) -> str:
    """The README.md of a published model.

    Args:
        name: of the model.
        cfg: what it was built from and trained with.
        class_names: of its C classes.
        evaluations: its measured scores, if any.
        license: id of the weights' licence on the hub.
    """
    with_text = cfg.MODEL.MTACLIP.TEXT.ENABLED
    method = "MTA-CLIP (mask-text alignment)" if with_text else "the Mask2Former baseline of MTA-CLIP"
    trained = ", ".join(map(markdown_text, cfg.DATASETS.TRAIN)) or "a dataset that its config does not name"
    shown = ", ".join(map(markdown_text, class_names))
    parts = [
        f"---\n{_front_matter(name, cfg, evaluations, license)}\n---\n",
        f"# {markdown_text(name)}\n",
        f"Semantic segmentation by {method} with {_tower(cfg)}, trained on {trained}.\n",
        f"{len(class_names)} classes: {shown}.\n",
        _USE,
        _scores(evaluations),
        _LIMITS,
    ]
    return "\n".join(parts)


def _tower(cfg: CfgNode) -> str:
    name = cfg.MODEL.BACKBONE.NAME
    told = _TOWERS.get(name, f"`{name}` as image tower")
    return told.format(clip=Path(cfg.MODEL.CLIP.ARCH).stem, depth=cfg.MODEL.RESNETS.DEPTH)


def _tags(cfg: CfgNode) -> list[str]:
    with_text = cfg.MODEL.MTACLIP.TEXT.ENABLED
    with_clip = with_text or cfg.MODEL.BACKBONE.NAME == "build_clip_backbone"
    own = ["mask-text-alignment"] * with_text + ["clip"] * with_clip
    return ["semantic-segmentation", *own, "detectron2"]


def _front_matter(name: str, cfg: CfgNode, evaluations: Sequence[Evaluation], license: str) -> str:
    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=_hub_name(evaluation.dataset),
            dataset_name=evaluation.dataset,
            metric_type=key,
            metric_value=round(value, 2),
        )
        for evaluation in evaluations
        for key, value in mean_scores(evaluation.scores).items()
        if value == value
    ]
    return ModelCardData(
        license=license,
        library_name=LIBRARY,
        pipeline_tag="image-segmentation",
        tags=_tags(cfg),
        datasets=sorted({_hub_name(dataset) for dataset in cfg.DATASETS.TRAIN}) or None,
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _hub_name(dataset: str) -> str:
    """The dataset without its split."""
    return dataset.split("_sem_seg")[0]


def _scores(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return "## Scores\n\nNone were measured when this card was written.\n"
    cells = [mean_cells(evaluation.scores) for evaluation in evaluations]
    heads = ["dataset", "images", *dict.fromkeys(key for row in cells for key in row)]
    rows = [
        [evaluation.dataset, str(evaluation.num_images), *(row.get(key, "-") for key in heads[2:])]
        for evaluation, row in zip(evaluations, cells, strict=True)
    ]
    return f"## Scores\n\nMeasured, in percent.\n\n{markdown_table(heads, rows)}\n"


_USE = """## Use

With the package `mtaclip` and Detectron2 installed:

```python
import mtaclip
from mtaclip.predictor import Predictor

predictor = Predictor.from_pretrained("folder or id of this model")
labels = predictor("street.png").labels  # (H, W) uint8, the number of a class at every pixel
predictor.class_names
```
"""

_LIMITS = """## Limits

- The model tells the classes above apart and nothing else: every pixel gets one of them, whatever it shows.
- It has learned from the images of its dataset. How good it is with others was not measured.
"""
