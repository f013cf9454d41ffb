"""Many samples: the gain of a second process, memory against the number of samples, and what kills cost.

    python benchmarks/scale.py speed            # one process and two, alternately, on a shipped model
    python benchmarks/scale.py memory           # of sample and evaluate, with a tiny network, at n = 1,000 and 50,000
    python benchmarks/scale.py kills --kills 60 # at random times, with one process and with two

Each part prints a table in Markdown, adds its numbers to benchmarks/results/scale.json, and leaves nothing else behind.
Seconds are those of the drawing alone, as `prescore sample` prints them; memory is the largest resident size of a
process. Nothing else should run beside `speed`.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "scale.json"
TINY = {"img_resolution": 8, "in_channels": 1, "out_channels": 1, "model_channels": 16, "channel_mult": [1]}
TINY |= {"num_blocks": 1, "attn_resolutions": []}


def launcher(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "prescore"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    many = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    return [*many, "--master-port", str(port), "-m", "prescore"]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def run(processes: int, *arguments: object) -> tuple[str, int]:
    """What a command printed, and the largest resident size of its processes in MiB. Raises if it fails."""
    with tempfile.TemporaryFile() as out:
        command = [*launcher(processes), *map(str, arguments)]
        child = subprocess.Popen(command, env=environment(), stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode()
    if child.returncode:
        raise SystemExit(f"{command} failed:\n{text}")
    return text, usage.ru_maxrss // 1024


def kill_all(pid: int) -> None:
    """Kill a process and all below it, which launchers put into sessions of their own, and wait until they are gone."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    doomed = {pid}
    while more := {child for child, parent in parents.items() if parent in doomed} - doomed:
        doomed |= more
    for each in doomed:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    while any(_runs(each) for each in doomed):
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def same(one: Path, two: Path) -> bool:
    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (one, two)]
    return contents[0] == contents[1]


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    how = ["sample", options.model, "--sampler", "dpmpp-2m", "--steps", 10, "--batch-size", 16]
    how += ["--samples", options.n, "--shard-size", 64]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(options.runs):
        for processes in (1, 2):
            text, _ = run(processes, *how, "--out", folder / f"{turn}-{processes}")
            seconds[processes].append(float(re.findall(r"calls in ([\d.]+) s", text)[0]))
        assert same(folder / f"{turn}-1", folder / f"{turn}-2"), "the files differ"
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    print(f"\n{options.n} samples of {options.model}, 10 calls each, batches of 16, one thread a process; the files of")
    print("both are equal byte for byte\n\n| processes | seconds, median (all) |\n|-|-|")
    for processes, found in seconds.items():
        print(f"| {processes} | {median(found):.1f} ({', '.join(f'{s:.1f}' for s in found)}) |")
    print(f"\ntwo are {median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})")
    return {"model": options.model, "n": options.n, "seconds": seconds, "ratios": ratios}


def tiny_model(folder: Path) -> Path:
    from prescore.checkpoints.native import ModelDescription, save_model
    from prescore.models.song_unet import SongUNet

    torch.manual_seed(0)
    description = ModelDescription(
        network="SongUNet",
        arguments=TINY,
        preconditioning="edm",
        preconditioning_arguments={"sigma_data": 0.5},
        event_shape=(1, 8, 8),
        sigma_min=0.002,
        sigma_max=80.0,
        data_range=(-1.0, 1.0),
        name="tiny",
    )
    save_model(folder / "tiny.safetensors", description, SongUNet(**TINY).state_dict())
    return folder / "tiny.safetensors"


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    model, rows = tiny_model(folder), []
    for n in options.counts:
        out = folder / f"{n}"
        how = ["--sampler", "dpmpp-2m", "--steps", 2, "--batch-size", 250, "--shard-size", 1000]
        _, drawn = run(1, "sample", model, *how, "--samples", n, "--out", out)
        metrics = ["--features", "means-2x2", "--metrics", "frechet,spectrum,pixel-mean"]
        _, measured = run(1, "evaluate", out, "--reference", out, *metrics)
        rows.append({"n": n, "files": len(list(out.iterdir())), "sample": drawn, "evaluate": measured})
    print("\n| samples | files | MiB of `sample` | MiB of `evaluate` |\n|-|-|-|-|")
    for row in rows:
        print(f"| {row['n']} | {row['files']} | {row['sample']} | {row['evaluate']} |")
    return {"rows": rows}


def kills(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    how = ["sample", options.model, "--sampler", "ddim", "--steps", 4, "--batch-size", 4, "--shard-size", 4]
    how += ["--samples", 150 * options.kills, "--out"]
    moments, killed, out = random.Random(options.seed), 0, folder / "killed"
    before: dict[str, tuple[int, bytes]] = {}
    while killed < options.kills:
        processes = 1 + killed % 2
        child = subprocess.Popen(
            [*launcher(processes), *map(str, how), str(out)],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(0, 2 * options.start))
        ended = child.poll()
        if ended is not None:
            raise SystemExit(f"it ended by itself with code {ended}; take more samples or less time")
        kill_all(child.pid)
        child.wait()
        killed += 1
        for name, (changed, content) in before.items():
            file = out / name
            assert (file.stat().st_mtime_ns, file.read_bytes()) == (changed, content), f"{name} was lost or repeated"
        before = {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in out.glob("0*.npz")}
    shards = len(before)
    for place in (out, folder / "alone"):
        run(1, *how, place)
    assert same(out, folder / "alone"), "the files are not those of a run that was left alone"
    print(
        f"\n{killed} kills at random times, half of them of two processes; {shards} shards were written between them."
    )
    print("None was lost, none drawn again, and the end equals a run that was left alone, byte for byte.")
    return {"kills": killed, "shards_between": shards}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=("speed", "memory", "kills"))
    parser.add_argument("--model", default="mnist-ve")
    parser.add_argument("--n", type=int, default=512, help="samples of speed")
    parser.add_argument("--runs", type=int, default=3, help="of speed, alternately")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 50000], help="samples of memory")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--start", type=float, default=6.0, help="seconds in which a run begins to draw, of kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="prescore-scale-"))
    try:
        found = {"speed": speed, "memory": memory, "kills": kills}[options.part](options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    before = json.loads(options.out.read_text()) if options.out.exists() else {}
    found |= {"torch": torch.__version__, "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**before, options.part: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
