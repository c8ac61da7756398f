"""Images that are evaluated while the next ones are computed."""

import threading

import pytest
import torch
from detectron2.evaluation import DatasetEvaluator

from mtaclip.evaluation.background import BackgroundEvaluator


class Recorder(DatasetEvaluator):
    """Notes what it is given, when it is let; refuses image 2."""

    def __init__(self):
        self.let, self.seen = threading.Event(), []

    def reset(self):
        self.seen = []

    def process(self, inputs, outputs):
        assert self.let.wait(timeout=30)
        if inputs[0]["image_id"] == 2:
            raise ValueError("image 2 cannot be evaluated.")
        self.seen.append((inputs, outputs))

    def evaluate(self):
        return {"images": len(self.seen)}


def give(evaluator, number):
    inputs = [{"image_id": number, "image": torch.zeros(3, 4, 4)}]
    evaluator.process(inputs, [{"labels": torch.full((4, 4), number, dtype=torch.uint8)}])


def test_images_are_processed_in_order_while_others_come():
    recorder = Recorder()
    evaluator = BackgroundEvaluator(recorder)
    evaluator.reset()
    for number in (5, 6, 7):
        give(evaluator, number)
    assert recorder.seen == []
    recorder.let.set()
    assert evaluator.evaluate() == {"images": 3}
    assert [inputs for inputs, _ in recorder.seen] == [[{"image_id": number}] for number in (5, 6, 7)]
    assert [int(outputs[0]["labels"][0, 0]) for _, outputs in recorder.seen] == [5, 6, 7]


def test_few_images_wait_in_memory():
    recorder = Recorder()
    evaluator = BackgroundEvaluator(recorder)
    evaluator.reset()
    taken = []

    def process():
        for number in range(10, 50):
            give(evaluator, number)
            taken.append(number)

    giving = threading.Thread(target=process)
    giving.start()
    giving.join(timeout=0.3)
    assert 1 <= len(taken) <= 16 and giving.is_alive()
    recorder.let.set()
    giving.join(timeout=30)
    assert evaluator.evaluate() == {"images": 40}


def test_an_error_is_raised_later_or_at_the_end_and_forgotten_with_its_images():
    recorder = Recorder()
    recorder.let.set()
    evaluator = BackgroundEvaluator(recorder)
    evaluator.reset()
    with pytest.raises(ValueError, match="image 2"):
        for number in (1, 2, *range(3, 40)):
            give(evaluator, number)
    evaluator.reset()
    give(evaluator, 2)
    with pytest.raises(ValueError, match="image 2"):
        evaluator.evaluate()
    evaluator.reset()
    give(evaluator, 3)
    assert evaluator.evaluate() == {"images": 1}
