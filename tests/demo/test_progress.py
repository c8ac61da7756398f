"""Progress where there is no terminal."""

import time

from mtaclip.demo.progress import progress


def test_lines_say_how_far_it_is_and_how_much_time_is_left(log):
    items = []
    for item in progress("abc", 3, "image", log_seconds=0.0):
        items.append(item)
        time.sleep(0.01)
    list(progress("ab", None, "frame", log_seconds=0.0))
    assert items == ["a", "b", "c"]
    assert log == [
        "image 1 of 3, 00:00 left",
        "image 2 of 3, 00:00 left",
        "image 3 of 3, 00:00 left",
        "frame 1",
        "frame 2",
    ]


def test_short_tasks_say_nothing(log):
    assert list(progress(range(100), 100, "image")) == list(range(100))
    assert log == []
