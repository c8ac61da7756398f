"""Work that goes on while the model computes the next image."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from torch import Tensor


class Background:
    """A thread that makes calls, one after the other.

    Args:
        name: of the thread.
        limit: calls that may be under way; whoever adds one more waits, so that what they hold stays bounded.
    """

    def __init__(self, name: str, limit: int = 8) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
        self._calls: deque[Future] = deque()
        self._limit = limit

    def submit(self, function: Callable[..., object], *args: Any) -> None:
        """Have `function(*args)` called; raises what an earlier call has raised."""
        while self._calls and (self._calls[0].done() or len(self._calls) >= self._limit):
            self._calls.popleft().result()
        self._calls.append(self._thread.submit(function, *args))

    def flush(self) -> None:
        """Wait for all calls; raises what one of them has raised."""
        while self._calls:
            self._calls.popleft().result()

    def close(self) -> None:
        """End the thread after all calls; what they raise is not raised any more."""
        self._thread.shutdown()


class BackgroundEvaluator(DatasetEvaluator):
    """Another evaluator, whose images are processed in a thread.

    An error of an image is raised when a later one is processed, or by `evaluate`.

    Args:
        evaluator: reads the entries of its inputs that are no tensors.
    """

    def __init__(self, evaluator: DatasetEvaluator) -> None:
        self._evaluator = evaluator
        self._background = Background("evaluation")

    def reset(self) -> None:
        """Forget every image."""
        self._background = Background("evaluation")
        self._evaluator.reset()

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Bring what the model returned to the host and hand it on.

        Args:
            inputs: one dict per image; their tensors are left out.
            outputs: one dict per image.
        """
        records = [{key: value for key, value in item.items() if not isinstance(value, Tensor)} for item in inputs]
        found = [{k: v.cpu() if isinstance(v, Tensor) else v for k, v in output.items()} for output in outputs]
        self._background.submit(self._evaluator.process, records, found)

    def evaluate(self) -> Any:
        """Wait for the images, and evaluate them."""
        try:
            self._background.flush()
        finally:
            self._background.close()
        return self._evaluator.evaluate()
