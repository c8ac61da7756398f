"""The inference graph as a program of `torch.export`.

Letters: B images, H, W size of an image in pixels.
"""

import io
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from mtaclip.export.model import exportable
from mtaclip.files import replace_file
from mtaclip.inference.resize import Size
from mtaclip.modeling.swin_backbone import SwinBackbone
from mtaclip.ops.reference import ms_deform_attn_classic_reference
from mtaclip.predictor import Predictor

BATCHES = (1, 64)
"""Fewest and most images that a program takes at a time."""
EDGES = (64, 4096)
"""Shortest and longest edge of the images of a program, in pixels."""
OPEN_SINCE = "2.13"
"""The version of PyTorch from which on sizes can be open; before, traces of pools hold for even edges only."""
_TRACED = (2, 3, 128, 192)  # all different, and none of them 1, which a trace would take for a constant


def export_program(predictor: Predictor, size: Size | None = None) -> ExportedProgram:
    """Trace the inference graph.

    Deformable attention is one operator in it, `mtaclip::ms_deform_attn`: who loads the program imports `mtaclip.ops`
    first, and has the fastest implementation of the machine.

    Args:
        predictor: of whole images; it computes in float32 whatever SOLVER.AMP says.
        size: height and width of all images; None leaves both open, within `EDGES` and in multiples of `edge_step`,
            which PyTorch before 2.13 cannot trace, and a Swin Transformer does not support: to trace its windows for
            open sizes does not end.

    Returns:
        A program on the predictor's device from images (B, 3, H, W) uint8 RGB to labels (B, H, W) uint8 and scores
        (B, C, H, W) float32, for any number B of images within `BATCHES`.

    Raises:
        ValueError: the predictor does not see an image once and as a whole, or the size is none of these, or it is open
            and cannot be.
    """
    model = exportable(predictor)
    if size is None and isinstance(model.backbone, SwinBackbone):
        raise ValueError("a Swin Transformer is exported for images of one size: name it (--height and --width).")
    if size is None and torch.__version__ < OPEN_SINCE:
        raise ValueError(
            f"PyTorch {torch.__version__} exports for images of one size, which to name (--height and --width); from "
            f"{OPEN_SINCE} on it does for all sizes."
        )
    step = edge_step(predictor)
    if size is not None and not all(EDGES[0] <= edge <= EDGES[1] and edge % step == 0 for edge in size):
        unit = f"a multiple of {step} from " if step > 1 else ""
        raise ValueError(
            f"an image must have {unit}{EDGES[0]} to {EDGES[1]} pixels each way, got {size[0]} x {size[1]}."
        )
    dynamic = {0: Dim("batch", min=BATCHES[0], max=BATCHES[1])}
    if size is None:
        dynamic |= {2: _edges("height", step), 3: _edges("width", step)}
    shape = (*_TRACED[:2], *(size or _TRACED[2:]))
    images = torch.zeros(shape, dtype=torch.uint8, device=model.pixel_mean.device)
    with torch.no_grad():
        return torch.export.export(model, (images,), dynamic_shapes=(dynamic,), strict=False)


def edge_step(predictor: Predictor) -> int:
    """What the edges of a program's images are multiples of: 1, or the patches of a ViT."""
    return max(predictor.model.backbone.size_divisibility, 1)


def _edges(name: str, step: int) -> Dim:
    dim = Dim(name, min=EDGES[0] // step, max=EDGES[1] // step)
    return dim if step == 1 else step * dim


def save_program(program: ExportedProgram, predictor: Predictor, file: Path) -> None:
    """Write a program with its `facts` as extra files, complete or not at all.

    Raises:
        OSError: the file cannot be written.
        ValueError: the classes of the predictor are unknown.
    """
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=facts(predictor))
    replace_file(file, content.getvalue())


def facts(predictor: Predictor) -> dict[str, str]:
    """What a program's user has to know, as JSON by name.

    "classes": C names; "colours": C triples of red, green and blue in 0..255; "batches": fewest and most images;
    "edges": shortest and longest edge in pixels; "step": edges are multiples of it; "sizes": the shorter and the longer
    edge in pixels that evaluation scales images to fit, INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, of which the first is 0
    where it leaves images as they are.

    Raises:
        ValueError: see `Predictor.palette`.
    """
    palette = predictor.palette
    limits = predictor.cfg.INPUT
    known = {
        "classes": palette.names,
        "colours": palette.colours.tolist(),
        "batches": BATCHES,
        "edges": EDGES,
        "step": edge_step(predictor),
        "sizes": (limits.MIN_SIZE_TEST, limits.MAX_SIZE_TEST),
    }
    return {name: json.dumps(value) for name, value in known.items()}


def plain_program(program: ExportedProgram) -> ExportedProgram:
    """The same program in operators that ONNX has: deformable attention by `grid_sample`, attention by products."""
    return program.run_decompositions(
        {
            torch.ops.mtaclip.ms_deform_attn.default: _ms_deform_attn,
            torch.ops.aten.scaled_dot_product_attention.default: _attention,
        }
    )


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """`aten::scaled_dot_product_attention` with any number of leading dimensions, of which ONNX's has two."""
    logits = query @ key.mT / query.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    return logits.softmax(dim=-1) @ value


def _ms_deform_attn(
    value: Tensor, reference_points: Tensor, sampling_offsets: Tensor, attention_logits: Tensor, shapes: list[int]
) -> Tensor:
    """`mtaclip::ms_deform_attn` for sizes that are known when the program runs."""
    sizes = list(zip(shapes[::2], shapes[1::2], strict=True))
    steps = [
        torch.stack([offsets[..., 0] / width, offsets[..., 1] / height], dim=-1)
        for offsets, (height, width) in zip(sampling_offsets.unbind(3), sizes, strict=True)
    ]
    locations = reference_points[None, :, None, None, None] + torch.stack(steps, dim=3)
    weights = attention_logits.softmax(-1).view(sampling_offsets.shape[:-1])
    return ms_deform_attn_classic_reference(value, sizes, locations, weights)
