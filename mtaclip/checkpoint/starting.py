"""Starting a training from weights of a model that differs in parts that are named (MODEL.WEIGHTS_REINIT)."""

import logging
from collections.abc import Collection, Mapping

import torch
from tabulate import tabulate
from torch import Tensor, nn

from mtaclip.checkpoint.loading import load_state

_logger = logging.getLogger("mtaclip.checkpoint")
# What may start anew: beginnings of the names of its tensors.
PARTS: dict[str, tuple[str, ...]] = {
    "classes": ("decoder.class_head.",),
    "queries": ("decoder.query_content",),
    "contexts": ("texts.contexts",),
    "text": ("texts.", "decoder.alignment.", "criterion.contrastive."),
}
_QUERIES, _POSITIONS = "decoder.query_content", "decoder.query_position"
_TOWER = "texts.encoder."
_CLIP_POSITIONS = f"{_TOWER}positional_embedding"
_TABLES = (_POSITIONS, _CLIP_POSITIONS)


def check_parts(parts: Collection[str]) -> None:
    """Refuse what is not the name of a part.

    Raises:
        ValueError: the message names the key.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"MODEL.WEIGHTS_REINIT: {unknown[0]!r} is none of {', '.join(map(repr, PARTS))}.")


def load_start(model: nn.Module, state: Mapping[str, Tensor], source: str, parts: Collection[str]) -> None:
    """Load a state dict that fits the model in everything but the named parts, which stay as they were built.

    The positions of mask queries are kept unless "queries" start anew, those of text queries unless "classes",
    "contexts" or "text" do. Of CLIP's positions of text tokens, the first rows are kept where more texts are read.

    Args:
        model: changed in place.
        state: tensors by name.
        source: where they come from, for messages.
        parts: names in `PARTS`.

    Raises:
        ValueError: an unknown part, one that the model does not have, or a tensor of another part that does not fit.
    """
    check_parts(parts)
    own = model.state_dict()
    absent = [part for part in parts if not any(name.startswith(PARTS[part]) for name in own)]
    if absent:
        raise ValueError(
            f"MODEL.WEIGHTS_REINIT names {absent[0]!r}, which the model does not have "
            f"(MODEL.META_ARCHITECTURE, MODEL.MTACLIP.TEXT.ENABLED)."
        )
    anew = tuple(beginning for part in parts for beginning in PARTS[part])
    fitted = {name: tensor for name, tensor in state.items() if not name.startswith(anew)}
    fitted |= {name: tensor for name, tensor in own.items() if name.startswith(anew)}
    fitted |= _merged_positions(own, fitted, state, parts)
    changes = _changes(own, state, fitted, anew)
    load_state(model, fitted, source)
    _logger.info("%s: not simply loaded, as MODEL.WEIGHTS_REINIT is %s:\n%s", source, tuple(parts), changes)


def _merged_positions(
    own: Mapping[str, Tensor], fitted: Mapping[str, Tensor], state: Mapping[str, Tensor], parts: Collection[str]
) -> dict[str, Tensor]:
    """The tables of positions that hold rows of the checkpoint and rows of the model as it was built."""
    merged = {}
    tables = [own.get(_POSITIONS), state.get(_POSITIONS), own.get(_QUERIES), state.get(_QUERIES)]
    if all(table is not None and table.dim() == 2 for table in tables):
        here, there, queries_here, queries_there = tables
        masks = here[: len(queries_here)] if "queries" in parts else there[: len(queries_there)]
        texts_anew = not {"classes", "contexts", "text"}.isdisjoint(parts)
        texts = here[len(queries_here) :] if texts_anew else there[len(queries_there) :]
        merged[_POSITIONS] = _stacked(masks, texts, there)
    if _CLIP_POSITIONS in fitted and _CLIP_POSITIONS in own and not {"classes", "contexts"}.isdisjoint(parts):
        here, there = own[_CLIP_POSITIONS], fitted[_CLIP_POSITIONS]
        merged[_CLIP_POSITIONS] = _stacked(there[: len(here)], here[len(there) :], there)
    return merged


def _stacked(upper: Tensor, lower: Tensor, otherwise: Tensor) -> Tensor:
    """Both, one below the other; `otherwise`, to be refused, where they are not equally wide."""
    return torch.cat([upper.to(lower), lower]) if upper.shape[1:] == lower.shape[1:] else otherwise


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one.cpu(), other.cpu())


def _changes(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], fitted: Mapping[str, Tensor], anew: tuple[str, ...]
) -> str:
    """A table of the tensors that are not the checkpoint's; those of the text tower share a row."""
    rows = []
    for name in sorted({*own, *state}):
        if name.startswith(anew):
            what = "starts anew" if name in own else "left out"
        elif name in _TABLES and name in own and not _equal(fitted.get(name), state.get(name)):
            is_new = name == _POSITIONS and _equal(fitted[name], own[name])  # CLIP's may be the same everywhere
            what = "starts anew" if is_new else "rows that fit are loaded"
        else:
            continue
        rows.append([name, *(str(tuple(side[name].shape)) if name in side else "-" for side in (state, own)), what])
    tower = [row for row in rows if row[0].startswith(_TOWER) and row[0] != _CLIP_POSITIONS]
    if tower:
        rows = [row for row in rows if row not in tower] + [[f"{_TOWER}* ({len(tower)} tensors)", "", "", tower[0][3]]]
    return tabulate(rows, ["tensor", "checkpoint", "model", ""], tablefmt="simple", disable_numparse=True)
