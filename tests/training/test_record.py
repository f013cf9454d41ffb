import math

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.training.record import LOSS_WINDOW, Record


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


def test_pictures_are_scaled_to_what_tensorboard_draws(tmp_path):
    class Writer:
        def add_images(self, name, x, step):
            self.seen = (name, x, step)

    writer = Writer()
    Record(tmp_path, 0, writer).add_pictures(3, torch.tensor([-2.0, -1.0, 0.0, 1.0]).reshape(1, 1, 2, 2), (-1.0, 1.0))
    name, x, step = writer.seen
    assert (name, x.flatten().tolist(), step) == ("samples", [0, 0, 0.5, 1], 3)
