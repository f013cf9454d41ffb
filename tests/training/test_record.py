import math

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.training.record import LOSS_WINDOW, Record, tensorboard_writer


def test_losses_go_on_after_the_checkpoint(tmp_path):
    record = Record(tmp_path, 0)
    for step in range(1, 6):
        record.add(step, step / 10, 1e-3, 2.0)
    record.write()
    again = Record(tmp_path, 3)
    again.add(4, 7.0, 1e-3, 2.0)
    again.write()
    rows = (tmp_path / "loss.csv").read_text().splitlines()
    assert rows == ["step,loss", "1,0.100000", "2,0.200000", "3,0.300000", "4,7.000000"]


def test_recent_is_the_mean_of_the_last_steps(tmp_path):
    record = Record(tmp_path, 0)
    assert math.isnan(record.recent)
    for step in range(1, 2 * LOSS_WINDOW + 1):
        record.add(step, float(step), 1e-3, 2.0)
    assert record.recent == pytest.approx(1.5 * LOSS_WINDOW + 0.5)


def test_a_damaged_file_is_an_error(tmp_path):
    for content in (b"step,loss\n1,x\n", b"loss\n3\n", b"\xff\xfe\x00", b"step,loss\n1\n"):
        (tmp_path / "loss.csv").write_bytes(content)
        with pytest.raises(PrescoreError, match=r"loss.csv: damaged .* delete it"):
            Record(tmp_path, 5)


def test_a_run_goes_on_without_a_tensorboard_that_cannot_write(tmp_path):
    class Writer:
        def __getattr__(self, name):
            raise OSError(28, "No space left on device")

    notes = []
    record = Record(tmp_path, 0, Writer(), notes.append)
    for step in (1, 2):
        record.add(step, 0.5, 1e-3, 2.0)
    record.add_pictures(2, torch.zeros(1, 1, 2, 2), (0.0, 1.0))
    record.write()
    record.close()
    assert notes == ["TensorBoard's file cannot be written (No space left on device); only loss.csv is"]
    assert (tmp_path / "loss.csv").read_text() == "step,loss\n1,0.500000\n2,0.500000\n"


def test_a_full_disk_stops_tensorboard_and_not_the_run(tmp_path, monkeypatch):
    """The writer fails in a thread of its own."""
    pytest.importorskip("torch.utils.tensorboard")
    resource = pytest.importorskip("resource")
    monkeypatch.setattr("threading.excepthook", lambda _: None)  # as the command line has it
    limits, notes = resource.getrlimit(resource.RLIMIT_FSIZE), []
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        record = Record(tmp_path, 0, tensorboard_writer(tmp_path, 0, notes.append), notes.append)
        for step in range(1, 20):
            record.add(step, 0.5, 1e-3, 2.0)
        record._tell("flush")
        record.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert notes == ["TensorBoard's file cannot be written (File too large); only loss.csv is"]


def test_pictures_are_scaled_to_what_tensorboard_draws(tmp_path):
    class Writer:
        def add_images(self, name, x, step):
            self.seen = (name, x, step)

    writer = Writer()
    Record(tmp_path, 0, writer).add_pictures(3, torch.tensor([-2.0, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2), (-1.0, 1.0))
    name, x, step = writer.seen
    assert (name, x.flatten().tolist(), step) == ("samples", [0, 0, 0.5, 1], 3)
