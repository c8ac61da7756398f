"""Writers of scalars that outlive what the file system refuses."""

import shutil
import threading

import pytest
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtaclip.engine.writers import LenientWriter, RenewedTensorboard, drop_incomplete_line


def test_a_writer_that_cannot_write_is_an_error_in_the_log(caplog, tmp_path):
    class Full:
        def write(self):
            with open("/dev/full", "w") as file:
                file.write("scalars")

        close = write

    writer = LenientWriter(Full(), tmp_path / "metrics.json")
    writer.write()
    writer.close()
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert f"{tmp_path / 'metrics.json'}: not written: No space left" in caplog.text


def test_only_an_incomplete_line_is_cut_off(tmp_path):
    file = tmp_path / "metrics.json"
    for content, expected in (("{}\n{}\n", "{}\n{}\n"), ("{}\n{", "{}\n"), ("{", ""), ("", "")):
        file.write_text(content)
        drop_incomplete_line(file)
        assert file.read_text() == expected


def test_events_go_to_another_file_after_a_failure(tmp_path, monkeypatch):
    """The folder is gone for a while, which is to TensorBoard what a full disk is."""
    monkeypatch.setattr(threading, "excepthook", lambda problem: None)  # TensorBoard's thread ends with an error
    folder = tmp_path / "run"
    folder.mkdir()
    writer = RenewedTensorboard(folder)
    with EventStorage() as storage:
        storage.put_scalar("total_loss", 3.0, smoothing_hint=False)
        writer.write()
        shutil.rmtree(folder)
        with pytest.raises(OSError):
            for _ in range(1000):  # until the thread has tried it
                storage.step()
                storage.put_scalar("total_loss", 2.0, smoothing_hint=False)
                writer.write()
        with pytest.raises(OSError):
            writer.write()
        folder.mkdir()
        storage.step()
        storage.put_scalar("total_loss", 1.0, smoothing_hint=False)
        writer.write()
        writer.close()
    events = EventAccumulator(str(folder))
    events.Reload()
    (event,) = events.Scalars("total_loss")
    assert event.step == storage.iter and event.value == 1.0
