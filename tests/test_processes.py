import dataclasses
import os
import socket
import subprocess
import sys

import pytest
import torch
from runs import QUIET, tensors, tiny

from prescore.errors import PrescoreError
from prescore.processes import Processes, processes_on
from prescore.training.loop import train

PAIR = """
import sys
from runs import QUIET, tiny
from prescore.training.loop import train
for number, changes in enumerate(({}, {"loss": "ssm-vr", "augment": 0.5})):
    train(*tiny("edm", **changes), f"{sys.argv[1]}/{number}", QUIET)
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_processes_learn_what_one_does(tmp_path):
    """By torchrun, on the CPU; the same losses and weights within rounding, and one of the two writes."""
    pytest.importorskip("accelerate")
    (tmp_path / "pair.py").write_text(PAIR)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    command = [*launcher, str(free_port()), str(tmp_path / "pair.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for number, changes in enumerate(({}, {"loss": "ssm-vr", "augment": 0.5})):
        alone = tmp_path / f"alone{number}"
        train(*tiny("edm", **changes), alone, QUIET)
        pair = tensors(tmp_path / str(number))
        for name, value in tensors(alone).items():
            assert torch.allclose(value, pair[name], rtol=1e-4, atol=1e-6), name
        curves = [
            [float(row.split(",")[1]) for row in (folder / "loss.csv").read_text().splitlines()[1:]]
            for folder in (alone, tmp_path / str(number))
        ]
        assert curves[1] == pytest.approx(curves[0], rel=1e-4, abs=2e-6)
        assert len(curves[0]) == 6


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (2, 3), (4, 1)])
def test_shares_cover_the_batch(count, accumulate):
    shares = [
        share for rank in range(count) for share in Processes(torch.device("cpu"), rank, count).shares(12, accumulate)
    ]
    assert len(shares) == count * accumulate
    assert [k for first, last in shares for k in range(first, last)] == list(range(12))


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(PrescoreError, match=r"batch_size: 10 examples cannot be shared equally by 4 .* multiple of 4"):
        Processes(torch.device("cpu"), 0, 4).shares(10, 1)


def test_several_processes_need_accelerate(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(
        PrescoreError, match=r"several processes need Accelerate; pip install '.\[train\]' in the clone"
    ):
        train(*tiny(), tmp_path, dataclasses.replace(QUIET))


def test_one_process_does_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with processes_on("cpu") as processes:
        assert (processes.rank, processes.count, processes.is_first) == (0, 1, True)
        assert processes.mean(torch.tensor(3.0)).item() == 3
