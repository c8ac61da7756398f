"""Checkpoints of other projects under this project's names: every tensor is renamed, or dropped for a reason.

The rules of each project are in a module of their own: `released` and `hugging_face_clip` here, which training reads by
itself, the others in `mtaclip.conversion`.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

_SHOWN = 3

Keys = dict[str, Any]
"""Values by the full names of their config keys."""


@dataclass(frozen=True)
class Unused:
    """What stands for a new name where nothing of this project uses a tensor.

    Attributes:
        reason: why.
    """

    reason: str


Rule = tuple[str, str | Unused]
"""Regular expression of a whole name, and the new name (with \\1 and so on). "name#0", "name#1", ... become one tensor,
put together along its first dimension."""


@dataclass
class Conversion:
    """A checkpoint under this project's names.

    Attributes:
        state: tensors by this project's names.
        names: for each tensor of the checkpoint that was taken, its name there and here.
        dropped: for each tensor that was not, its name there and the reason.
        facts: config keys that the checkpoint decides.
        guesses: config keys that a config file may decide otherwise.
        classes: class names, where the checkpoint has them.
        notes: sentences about what somebody should know before using it.
    """

    state: dict[str, Tensor]
    names: dict[str, str]
    dropped: dict[str, str]
    facts: Keys = field(default_factory=dict)
    guesses: Keys = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self) -> str:
        """Numbers of tensors that were loaded and dropped, as text."""
        parts: dict[str, list[Tensor]] = defaultdict(list)
        for name, tensor in self.state.items():
            parts[name.partition(".")[0]].append(tensor)
        rows = [
            [f"loaded: {part}", len(tensors), sum(tensor.numel() for tensor in tensors)]
            for part, tensors in parts.items()
        ]
        rows += [[f"dropped: {reason}", count, None] for reason, count in Counter(self.dropped.values()).items()]
        return tabulate([*rows, ["missing", 0, None]], headers=["", "tensors", "values"], intfmt=("", ",", ","))

    def listing(self) -> str:
        """Every tensor of the checkpoint and what became of it, a line each."""
        lines = [f"{there} -> {here}" for there, here in self.names.items()]
        lines += [f"{there} -> dropped: {reason}" for there, reason in self.dropped.items()]
        return "\n".join(sorted(lines))


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule], kind: str) -> Conversion:
    """Rename a state dict by the first rule that fits each name.

    Args:
        state: tensors by their names there.
        rules: see `Rule`.
        kind: what the rules are of, for messages.

    Raises:
        ValueError: no rule explains a name, two tensors get the same name, or a part of one is missing.
    """
    patterns = [(re.compile(pattern), new) for pattern, new in rules]
    pieces: dict[str, dict[int, Tensor]] = defaultdict(dict)
    names, dropped, unexplained = {}, {}, []
    for key, tensor in state.items():
        match, new = next(((m, new) for pattern, new in patterns if (m := pattern.fullmatch(key))), (None, None))
        if match is None:
            unexplained.append(key)
        elif isinstance(new, Unused):
            dropped[key] = new.reason
        else:
            names[key], _, number = match.expand(new).partition("#")
            if int(number or 0) in pieces[names[key]]:
                raise ValueError(f"{key} and another tensor would both become {names[key]}")
            pieces[names[key]][int(number or 0)] = tensor
    if unexplained:
        raise ValueError(f"no rule for {kind} explains {len(unexplained)} of its tensors: {_some(unexplained)}")
    return Conversion({name: _joined(name, tensors) for name, tensors in pieces.items()}, names, dropped)


def _joined(name: str, pieces: dict[int, Tensor]) -> Tensor:
    if len(pieces) == 1 and 0 in pieces:
        return pieces[0]
    if sorted(pieces) != [0, 1, 2]:
        raise ValueError(f"{name} would be put together from queries, keys and values, of which not all are there")
    if len({tensor.shape for tensor in pieces.values()}) > 1:
        raise ValueError(f"{name} would be put together from queries, keys and values of different shapes")
    return torch.cat([pieces[number] for number in range(3)])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
