"""Expected scores of one and of several datasets."""

import pytest

from mtaclip.engine import setup_cfg
from mtaclip.engine.evaluation import check_expected

TINY = "miniature/mtaclip_tiny.yaml"
VAL, TRAIN = "cityscapes_sem_seg_val", "cityscapes_sem_seg_train"


@pytest.mark.parametrize(
    ("datasets", "task"), [((VAL,), "sem_seg"), ((VAL, TRAIN), f"{TRAIN}/sem_seg")], ids=["one", "several"]
)
def test_expected_scores(config_path, datasets, task):
    scores = {name: {"sem_seg": {"mIoU": 45.0 if name == VAL and len(datasets) > 1 else 60.0}} for name in datasets}
    results = scores if len(datasets) > 1 else scores[VAL]

    def check(task, value):
        expected = ["TEST.EXPECTED_RESULTS", f"[['{task}', 'mIoU', {value}, 0.5]]"]
        check_expected(setup_cfg(config_path(TINY), [*expected, "DATASETS.TEST", str(datasets)], device="cpu"), results)

    check(task, 60.4)
    with pytest.raises(SystemExit) as ended:
        check(task, 60.6)
    assert ended.value.code == 1
    with pytest.raises(ValueError, match=r"TEST\.EXPECTED_RESULTS: no scores are called 'panoptic'.*sem_seg"):
        check("panoptic", 60.0)


def test_nothing_expected_is_nothing_checked(config_path):
    check_expected(setup_cfg(config_path(TINY), device="cpu"), {})
