"""Evaluation that goes on while the model computes the next image."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from torch import Tensor

_WAITING = 8  # batches that may be under way, so that what they hold stays bounded


class BackgroundEvaluator(DatasetEvaluator):
    """Another evaluator, whose images are processed in a thread.

    An error of an image is raised when a later one is processed, or by `evaluate`.

    Args:
        evaluator: reads the entries of its inputs that are no tensors.
    """

    def __init__(self, evaluator: DatasetEvaluator) -> None:
        self._evaluator = evaluator

    def reset(self) -> None:
        """Forget every image."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluation")
        self._batches: deque[Future] = deque()
        self._evaluator.reset()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Bring what the model returned to the host and hand it on; waits while too many batches are under way.

        Args:
            inputs: one dict per image; their tensors are left out.
            outputs: one dict per image.
        """
        records = [{key: value for key, value in item.items() if not isinstance(value, Tensor)} for item in inputs]
        found = [{k: v.cpu() if isinstance(v, Tensor) else v for k, v in output.items()} for output in outputs]
        while self._batches and (self._batches[0].done() or len(self._batches) >= _WAITING):
            self._batches.popleft().result()
        self._batches.append(self._thread.submit(self._evaluator.process, records, found))

    def evaluate(self) -> Any:
        """Wait for the images, and evaluate them."""
        with self._thread:
            while self._batches:
                self._batches.popleft().result()
        return self._evaluator.evaluate()
