"""Samples drawn into files, by one process and by several: the same files."""

import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scale import kill_all

import prescore
from prescore import Denoiser, PrescoreError, fitting_batch, write_samples
from prescore.processes import Share, parse_share

RECORDED: list[int] = []


def function(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    RECORDED.append(len(x))
    return x * (0.2 / (0.2 + sigma**2))


MODEL = Denoiser(function, (1, 4, 4), 0.01, 10.0, data_range=(-1, 1))
PLAN = prescore.plan(MODEL, sampler="dpmpp-2m", steps=3)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("out", ["a.npz", "a.png", "folder"])
def test_it_writes_what_draw_returns(tmp_path: Path, out: str) -> None:
    written = write_samples(PLAN, tmp_path / out, range(5), batch_size=2, progress=False)
    assert (written.samples, written.calls, written.batch_size, written.is_complete) == (5, 9, 2, True)
    assert written.path == tmp_path / out
    if out == "a.npz":
        x = PLAN.sample(range(5), batch_size=2, progress=False)
        expected = ((x + 1) / 2 * 255).round().clamp(0, 255).to(torch.uint8)
        with np.load(tmp_path / out) as arrays:
            assert np.array_equal(arrays["images"], expected.movedim(1, -1).numpy())


@pytest.mark.parametrize("shard_size", [None, 4])
def test_shares_of_a_folder_make_what_one_run_makes(tmp_path: Path, shard_size: int | None) -> None:
    how = {"batch_size": 3, "shard_size": shard_size, "progress": False}
    write_samples(PLAN, tmp_path / "whole", range(14), **how)
    first = write_samples(PLAN, tmp_path / "parts", range(14), share="2/3", **how)
    assert not first.is_complete
    assert not write_samples(PLAN, tmp_path / "parts", range(14), share=Share(0, 3), **how).is_complete
    assert write_samples(PLAN, tmp_path / "parts", range(14), share="3/3", **how).is_complete
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_float_shards_keep_numbers(tmp_path: Path) -> None:
    write_samples(PLAN, tmp_path / "f", range(5), shard_size=4, as_numbers=True, progress=False)
    x = PLAN.sample(range(5), progress=False).float().movedim(1, -1).numpy()
    with np.load(tmp_path / "f" / "000000000-000000003.npz") as shard:
        assert np.array_equal(shard["images"], x[:4])


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    for message, how in {
        "shard: several runs cannot write .*a.npz together; name a folder": {"share": "1/2"},
        "shard_size: .*a.npz is one file; name a folder": {"shard_size": 10},
        "batch_size: 0 is not a positive whole number, nor auto": {"batch_size": 0},
        "batch_size: 'all' is not a positive": {"batch_size": "all"},
        "shard: '0/2' given; one of several, as in 1/16 to 16/16, or slurm is needed": {"share": "0/2"},
    }.items():
        with pytest.raises(PrescoreError, match=message):
            write_samples(PLAN, tmp_path / "a.npz", range(3), progress=False, **how)
    with pytest.raises(PrescoreError, match="seeds: one of them is given twice"):
        write_samples(PLAN, tmp_path / "a.npz", [1, 1], progress=False)
    assert not list(tmp_path.iterdir())


def test_the_share_of_a_task_of_an_array() -> None:
    environment = {
        f"SLURM_ARRAY_TASK_{k}": str(v) for k, v in {"ID": 7, "MIN": 3, "MAX": 9, "STEP": 2, "COUNT": 4}.items()
    }
    assert parse_share("slurm", environment) == Share(2, 4)
    for wrong in ({}, environment | {"SLURM_ARRAY_TASK_COUNT": "5"}, environment | {"SLURM_ARRAY_TASK_ID": "4"}):
        with pytest.raises(PrescoreError, match="shard: slurm given, but"):
            parse_share("slurm", wrong)
    step = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"}
    assert parse_share("slurm", step) == Share(1, 3)
    assert parse_share("slurm", environment | step) == Share(2 * 3 + 1, 12)
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "3"}  # of a script of sbatch, before any srun
    with pytest.raises(PrescoreError, match="shard: slurm given, but this is no task"):
        parse_share("slurm", batch)


def test_a_batch_grows_while_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which a call takes 1 s, and 0.1 s for each sample beyond 8; more than 50 do not fit."""
    now = 0.0

    def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal now
        if len(x) > most:
            raise torch.OutOfMemoryError("no")
        now += 1 + 0.1 * max(0, len(x) - 8)
        return x

    monkeypatch.setattr("prescore.output.drawing.time.perf_counter", lambda: now)
    model = Denoiser(network, (1, 2, 2), 0.01, 10.0)
    for limit, expected in ((50, 32), (20, 16), (10**6, 32)):
        most = limit
        assert fitting_batch(model) == expected
    assert fitting_batch(model, 20) == 16
    most = 0
    with pytest.raises(PrescoreError, match="batch_size: not even one sample fits into memory"):
        fitting_batch(model)


def test_auto_draws_in_batches_of_the_size_found(tmp_path: Path) -> None:
    RECORDED.clear()
    written = write_samples(PLAN, tmp_path / "a.npz", range(40), batch_size="auto", progress=False)
    assert set(RECORDED[-3:]) == {written.batch_size}


def launched(processes: int, *arguments: object) -> list[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    alone = [sys.executable, "-m", "prescore"]
    many = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port"]
    return [*(alone if processes == 1 else [*many, str(port), "-m", "prescore"]), *map(str, arguments)]


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(("out", "options"), [("f", ["--shard-size", 8]), ("a.npz", [])])
def test_two_processes_write_what_one_does(tmp_path: Path, out: str, options: list[object]) -> None:
    pytest.importorskip("accelerate")
    how = ["mnist-ncsn", "--sampler", "ddim", "--steps", 2, "--batch-size", 4, "--samples", 20, *options]
    for processes in (1, 2):
        command = launched(processes, "sample", *how, "--out", tmp_path / f"{processes}-{out}")
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("10 network calls in") == 1
        assert ("\nprocesses" in done.stdout) == (processes == 2)
    one, two = tmp_path / f"1-{out}", tmp_path / f"2-{out}"
    assert (content(one) == content(two)) if one.is_dir() else one.read_bytes() == two.read_bytes()


def test_killed_processes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Two processes are killed at some moment, then one is; the files are those of a run left alone."""
    pytest.importorskip("accelerate")
    how = ["sample", "mnist-ncsn", "--sampler", "ddim", "--steps", 4, "--batch-size", 4, "--samples", 60]
    how += ["--shard-size", 4, "--out"]
    moments, before = random.Random(0), dict[str, tuple[int, bytes]]()
    folder = tmp_path / "killed"
    for processes in (2, 1):
        run = subprocess.Popen(
            launched(processes, *how, folder), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while run.poll() is None and len(list(folder.glob("0*.npz"))) <= len(before):
            time.sleep(0.02)
        time.sleep(moments.random() * 0.2)
        kill_all(run.pid)
        run.wait()
        for name, (changed, was) in before.items():
            assert ((folder / name).stat().st_mtime_ns, (folder / name).read_bytes()) == (changed, was)
        before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.glob("0*.npz")}
    for place in (folder, tmp_path / "alone"):
        assert subprocess.run(launched(1, *how, place), env=ENVIRONMENT, capture_output=True).returncode == 0
    assert content(folder) == content(tmp_path / "alone")


def test_two_processes_share_the_runs_of_a_comparison(tmp_path: Path) -> None:
    """The samples are those that `prescore sample` draws, one process reports, and all runs are there."""
    pytest.importorskip("accelerate")
    how = ["mnist-ncsn", "--samplers", "ddim,dpmpp-2m", "--calls", 2, "--samples", 4, "--batch-size", 4]
    command = launched(2, "compare", *how, "--out", tmp_path / "c")
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The report is") == 1
    model = prescore.load("mnist-ncsn")
    for name in ("ddim", "dpmpp-2m"):
        with np.load(tmp_path / "c" / "runs" / f"{name}-2.npz") as run:
            x = prescore.draw(model, 4, sampler=name, calls=2, progress=False)
            assert np.array_equal(run["images"], x.float().movedim(1, -1).numpy())
