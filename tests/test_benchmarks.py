"""Benchmarks that are kept for other machines run here, small."""

import json
from pathlib import Path

import gpu
import pytest
import scale


def test_the_checks_for_a_gpu(tmp_path: Path) -> None:
    """On the CPU a model equals itself, and no scheduler of diffusers is faster than ours."""
    out, checks = tmp_path / "gpu.json", ["parity", "half", "batch", "copies"]
    assert gpu.main(["--device", "cpu", "--quick", "--checks", *checks, "--out", str(out)]) == 0
    found = json.loads(out.read_text())["checks"]
    assert list(found) == checks
    assert found["parity"]["found"]["mnist-edm"]["largest"] == 0
    assert 0 < found["copies"]["found"]["share"] < 0.5


def test_a_check_that_fails_is_named_and_the_others_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu.CHECKS, "half", lambda options: 1 / 0)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--quick", "--checks", "half", "parity", "--out", str(out)]) == 1
    found = json.loads(out.read_text())["checks"]
    assert found["half"]["why"] == "ZeroDivisionError: division by zero"
    assert found["parity"]["passed"]


def test_memory_of_many_samples(tmp_path: Path) -> None:
    """More shards, and no more memory than the noise of a process."""
    scale.main(["memory", "--counts", "500", "3000", "--out", str(tmp_path / "scale.json")])
    rows = json.loads((tmp_path / "scale.json").read_text())["memory"]["rows"]
    assert [row["files"] for row in rows] == [3, 5]
    assert rows[1]["sample"] < 1.05 * rows[0]["sample"]
