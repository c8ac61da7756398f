"""What happens around training steps beyond Detectron2's own hooks."""

import logging
import math
from pathlib import Path

from detectron2.engine import HookBase

from mtaclip.checkpoint import Checkpointer
from mtaclip.checkpoint.loading import read_checkpoint

_BEST = "model_best"


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
            self._best = read_checkpoint(file)["score"]

    def _check(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self._metric, (-math.inf, -1))
        if iteration <= self._seen:
            return
        self._seen = iteration
        if value > self._best:
            self._best = value
            self._checkpointer.save(_BEST, tag=False, iteration=self.trainer.iter, score=value)
            logging.getLogger(__name__).info("%s %.2f is the best so far: saved %s.pth", self._metric, value, _BEST)

    def after_step(self) -> None:
        """Look for a new score."""
        self._check()

    def after_train(self) -> None:
        """Look for the score of the final evaluation."""
        self._check()
