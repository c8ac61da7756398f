"""What happens around training steps beyond Detectron2's own hooks."""

import json
import logging
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

from mtaclip.checkpoint import Checkpointer
from mtaclip.checkpoint.loading import read_checkpoint
from mtaclip.visualization.curves import draw_curves

_BEST = "model_best"
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")
_logger = logging.getLogger(__name__)


class PeriodicCheckpoints(HookBase):
    """Writes `model_<iteration>.pth` now and then and `model_final.pth` at the end, and removes what is not kept.

    Which files there are is read from the folder, so that a resumed run removes those of the run before it. Files of
    later iterations than the current one belong to another run and stay, and so does the one that `last_checkpoint`
    names. A full disk costs a periodic checkpoint, not the run; only the final one must be written.

    Args:
        checkpointer: writes the files.
        period: iterations between checkpoints; 0 writes none but the final one.
        kept: the last so many periodic ones stay, at least 1.
        keep_period: every so many iterations there is one that is never removed; 0 for none.

    Raises:
        ValueError: a value below its smallest.
    """

    def __init__(self, checkpointer: Checkpointer, period: int, *, kept: int, keep_period: int = 0) -> None:
        for key, value, smallest in (
            ("SOLVER.CHECKPOINT_PERIOD", period, 0),
            ("SOLVER.CHECKPOINTS_KEPT", kept, 1),
            ("SOLVER.CHECKPOINT_KEEP_PERIOD", keep_period, 0),
        ):
            if value < smallest:
                raise ValueError(f"{key} must be {smallest} or more, got {value}.")
        self._checkpointer = checkpointer
        self._period = period
        self._kept = kept
        self._keep_period = keep_period
        self._written = -1

    def before_train(self) -> None:
        """Clear away what a killed run left half written."""
        self._checkpointer.remove_partial_files()

    def after_step(self) -> None:
        """Write what is due."""
        done = self.trainer.iter + 1
        if _divides(self._period, done) or _divides(self._keep_period, done):
            self.write()
        if done >= self.trainer.max_iter:
            self._checkpointer.save("model_final", iteration=self.trainer.iter)

    def write(self, *, required: bool = False) -> None:
        """Write the checkpoint of this iteration, unless it is written, and then remove the oldest.

        Args:
            required: see `Checkpointer.save`.

        Raises:
            OSError: see `Checkpointer.save`.
        """
        iteration = self.trainer.iter
        if self._written == iteration:
            return
        if self._checkpointer.save(f"model_{iteration:07d}", required=required, iteration=iteration):
            self._written = iteration
            self._remove_old()

    def _remove_old(self) -> None:
        folder = Path(self._checkpointer.save_dir)
        found = {int(match[1]): path for path in folder.glob("*.pth") if (match := _NUMBERED.fullmatch(path.name))}
        tagged = Path(self._checkpointer.get_checkpoint_file()).name
        for iteration in sorted(number for number in found if number <= self.trainer.iter)[: -self._kept]:
            if _divides(self._keep_period, iteration + 1) or found[iteration].name == tagged:
                continue
            try:
                found[iteration].unlink(missing_ok=True)
            except OSError as error:
                _logger.warning("%s: not removed: %s.", found[iteration], error.strerror)


class PeriodicEvaluation(hooks.EvalHook):
    """Detectron2's evaluation hook, which also makes up for the evaluation that an interruption kept from happening.

    The checkpoint of an iteration is written before the evaluation of that iteration. A run that resumes from it
    evaluates first, unless the scores are in `metrics.json`.

    Args:
        period: iterations between evaluations; 0 evaluates at the end only.
        evaluate: returns scores by name, in dicts of dicts.
        metrics: the run's `metrics.json`.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict], metrics: Path) -> None:
        super().__init__(period, evaluate)
        self._metrics = metrics

    def before_train(self) -> None:
        """Evaluate what the run resumes from, if that was due and is not recorded."""
        trainer, iteration = self.trainer, self.trainer.start_iter - 1
        if iteration < 0 or comm.all_gather(self._is_recorded(iteration))[0]:
            return
        trainer.iter = trainer.storage.iter = iteration
        self.after_step()
        trainer.iter = trainer.storage.iter = trainer.start_iter

    def after_train(self) -> None:
        """Evaluate, unless an error ends the training: other processes may not get here."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()

    def _is_recorded(self, iteration: int) -> bool:
        for line in self._metrics.read_text().splitlines() if self._metrics.is_file() else []:
            with suppress(ValueError, RecursionError):
                record = json.loads(line)
                is_due = isinstance(record, dict) and record.get("iteration") == iteration
                if is_due and any(name.endswith("mIoU") for name in record):
                    return True
        return False


class WriteScalars(hooks.PeriodicWriter):
    """Detectron2's hook, which here also writes after every evaluation: a kill costs none of its scores.

    Put it behind the hook that evaluates.

    Args:
        writers: write scalars somewhere.
        period: iterations between their writes.
        eval_period: iterations between evaluations; 0 evaluates at the end only.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int, eval_period: int) -> None:
        super().__init__(writers, period)
        self._eval_period = eval_period

    def before_train(self) -> None:
        """Write the scores of an evaluation that a resumed run has made up for."""
        if self.trainer.storage.latest():
            self._write()

    def after_step(self) -> None:
        """Write what is due."""
        done = self.trainer.iter + 1
        if _divides(self._period, done) or _divides(self._eval_period, done) or done == self.trainer.max_iter:
            self._write()

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()


class DrawCurves(HookBase):
    """Draws `curves.png` from `metrics.json` after every evaluation and at the end; put it behind the writers.

    Args:
        period: iterations between evaluations; 0 draws at the end only.
        metrics: the run's `metrics.json`.
    """

    def __init__(self, period: int, metrics: Path) -> None:
        self._period = period
        self._metrics = metrics

    def after_step(self) -> None:
        """Draw what has been written so far, if it is time."""
        if _divides(self._period, self.trainer.iter + 1):
            self._draw()

    def after_train(self) -> None:
        """Draw everything."""
        self._draw()

    def _draw(self) -> None:
        try:
            draw_curves(self._metrics, self._metrics.with_name("curves.png"))
        except (OSError, ValueError) as error:
            _logger.error("The curves were not drawn: %s", error)


def _divides(period: int, number: int) -> bool:
    return period > 0 and number % period == 0


class SaveBest(HookBase):
    """Keeps the weights of the best evaluation so far as `model_best.pth`, also across resumed runs.

    Put it behind the hook that evaluates.

    Args:
        checkpointer: writes the file.
        metric: name of a score in the storage; higher is better.
    """

    def __init__(self, checkpointer: Checkpointer, metric: str) -> None:
        self._checkpointer = checkpointer
        self._metric = metric
        self._best = -math.inf
        self._seen = -1

    def before_train(self) -> None:
        """Where a run goes on, so does the comparison: the file says how good it is."""
        file = Path(self._checkpointer.save_dir) / f"{_BEST}.pth"
        if self.trainer.start_iter > 0 and file.is_file():
            try:
                self._best = read_checkpoint(file)["score"]
            except (ValueError, KeyError) as error:
                _logger.warning("%s: the next evaluation replaces it, for its score cannot be read (%s).", file, error)
        self._check()

    def _check(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self._metric, (-math.inf, -1))
        if iteration <= self._seen:
            return
        self._seen = iteration
        if value > self._best and self._checkpointer.save(
            _BEST, tag=False, required=False, iteration=iteration, score=value
        ):
            self._best = value
            _logger.info("%s %.2f is the best so far: saved %s.pth", self._metric, value, _BEST)

    def after_step(self) -> None:
        """Look for a new score."""
        self._check()

    def after_train(self) -> None:
        """Look for the score of the final evaluation."""
        self._check()
