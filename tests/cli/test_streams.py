"""Standard output and error that are full, closed or cut: the work is done, and what can be said is one line."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prescore.cli.streams import Steady
from prescore.errors import LONGEST


def shell(tmp_path: Path, words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`prescore WORDS` in a shell, with its redirections."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | environment
    command = f"{sys.executable} -m prescore {words}"
    return subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        ("> /dev/full", 2, "prescore: error: standard output: cannot be written (No space left on device)\n"),
        (">&- <&-", 2, "prescore: error: standard output: cannot be written (Bad file descriptor)\n"),
        ("2>&- | head -1; exit ${PIPESTATUS[0]}", 0, ""),
    ],
)
def test_the_work_is_done_and_kept(tmp_path: Path, redirection: str, code: int, said: str) -> None:
    np.savez(tmp_path / "data.npz", images=np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8))
    result = shell(tmp_path, f"calibrate data.npz --out s.safetensors {redirection}", MPLBACKEND="unknown")
    assert (result.returncode, result.stderr) == (code, said)
    assert sorted(os.listdir(tmp_path)) == ["data.npz", "s.safetensors"]


def test_a_stream_that_fails_is_left_alone_from_then_on(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        stream = Steady(full)
        stream.write("text")
        assert stream.error is None  # it is in the buffer
        stream.flush()
        assert stream.error is not None
        first = stream.error
        stream.write("more")
        stream.flush()
        assert stream.error is first


def test_what_the_encoding_lacks_is_escaped() -> None:
    for encoding, text, expected in (("utf-8", "na\udcffme", "na\\udcffme"), ("ascii", "für", "f\\xfcr")):
        buffer = io.BytesIO()
        stream = Steady(io.TextIOWrapper(buffer, encoding=encoding))
        stream.write(text)
        stream.flush()
        assert buffer.getvalue().decode() == expected


def test_names_that_nobody_can_read(refused: Any, tmp_path: Path) -> None:
    message = refused("info", os.fsdecode(b"na\xffme\x1b[31m"))
    assert message.startswith("prescore: error: na\\udcffme\\x1b[31m: no such file")
    assert len(refused("info", tmp_path / ("n" * 300))) < LONGEST + 30
    (tmp_path / "loop").symlink_to("loop")
    for out in (tmp_path / "loop", tmp_path / "loop" / "f", "f" * 300, "/".join(["d" * 200] * 30)):
        assert "cannot be written" in refused("sample", "mnist-ve", "--out", out)
