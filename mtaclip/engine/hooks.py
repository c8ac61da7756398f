"""What happens around training steps beyond Detectron2's own hooks."""

import logging
import math

from detectron2.engine import HookBase

from mtaclip.checkpoint import Checkpointer


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

    def state_dict(self) -> dict[str, float]:
        """The best score so far."""
        return {"best": self._best}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved score."""
        self._best = state["best"]

    def _check(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self._metric, (-math.inf, -1))
        if iteration <= self._seen:
            return
        self._seen = iteration
        if value > self._best:
            self._best = value
            self._checkpointer.save("model_best", tag=False, iteration=self.trainer.iter)
            logging.getLogger(__name__).info("%s %.2f is the best so far: saved model_best.pth", self._metric, value)

    def after_step(self) -> None:
        """Look for a new score."""
        self._check()

    def after_train(self) -> None:
        """Look for the score of the final evaluation."""
        self._check()
