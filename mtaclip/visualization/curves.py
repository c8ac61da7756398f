"""Training curves from the `metrics.json` that a run writes."""

import json
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

from mtaclip.files import replace_file
from mtaclip.problems import first_line


def read_metrics(path: str | Path) -> dict[str, tuple[list[int], list[float]]]:
    """Scalars over iterations.

    A run that was resumed or repeated appends to its file; what it repeats takes the place of what it had written.

    Args:
        path: one JSON object a line, each with its "iteration".

    Returns:
        Iterations and values of every scalar, ascending.

    Raises:
        ValueError: a line is not JSON (the last may be cut short by an interruption) or not what a run writes, or there
            is no scalar.
    """
    records: dict[int, dict] = {}
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line, parse_int=float)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not JSON ({first_line(error)}).") from error
        if not isinstance(record, dict) or not all(isinstance(value, float) for value in record.values()):
            raise ValueError(f"{path}, line {number} is not what a run writes: numbers by their names.")
        if "iteration" not in record:
            raise ValueError(f"{path}, line {number} has no iteration.")
        if not 0 <= record["iteration"] < 2**53:  # whole numbers up to there are exact; NaN is none
            raise ValueError(f"{path}, line {number}: {record['iteration']} is no iteration.")
        iteration = int(record.pop("iteration"))
        while records and next(reversed(records)) >= iteration:
            records.popitem()
        records[iteration] = record
    curves: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    for iteration, record in records.items():
        for name, value in record.items():
            curves[name][0].append(iteration)
            curves[name][1].append(value)
    if not curves:
        raise ValueError(f"{path} holds no scalars: has the run written any yet?")
    return dict(curves)


def draw_curves(metrics: str | Path, picture: str | Path) -> None:
    """Draw the last layer's losses, the mean IoU and the learning rate over iterations.

    Args:
        metrics: a run's `metrics.json`.
        picture: PNG to write.

    Raises:
        ValueError: see `read_metrics`; or there is nothing to draw.
    """
    curves = read_metrics(metrics)
    losses = sorted(name for name in curves if name.startswith("loss_") and not name[-1].isdigit())
    panels = [("loss of the last layer", losses), ("mean IoU in %", ["sem_seg/mIoU"]), ("learning rate", ["lr"])]
    panels = [(title, [name for name in names if name in curves]) for title, names in panels]
    panels = [(title, names) for title, names in panels if names]
    if not panels:
        raise ValueError(f"{metrics} holds neither losses nor mean IoU nor learning rate.")
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in names:
            axes.plot(*curves[name], label=name, marker="o" if len(curves[name][0]) < 20 else None)
        axes.set(title=title, xlabel="iteration")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
    file = Path(picture)
    kind = file.suffix[1:] or "png"
    replace_file(file, lambda opened: figure.savefig(opened, dpi=120, format=kind))
