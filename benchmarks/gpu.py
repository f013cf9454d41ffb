"""Every check that needs a GPU, in one run of at most 8 minutes, into one JSON file.

    make gpu                                             # on a machine with CUDA
    python benchmarks/gpu.py --device cpu --quick        # the script itself, small, on a CPU

| check | passes if |
|-|-|
| parity | samples on the device differ from those of the CPU by at most 2e-3 of the data's range (float32, no TF32) |
| half | float16 and bfloat16 networks differ from float32 by at most 0.02 and 0.05 of the range, root mean square |
| compile | samples of the compiled network differ by at most 2e-3 of the range; the gain is recorded |
| pds-step | the arithmetic of a step of PDS is below 5, 2 and 1 % of a network call at 64, 256 and 1024 pixels |
| diffusers | a step of DDIM, DPM-Solver++(2M) and UniPC takes no longer than that of diffusers' scheduler |
| copies | the share of the copy to the host, decoding and rounding in the time of a batch is recorded |
| batch | `fitting_batch` finds a size, and the samples for each second at it are recorded |

A check that the time does not allow any more, or that fails, is named in the file; the exit code is 1 if one failed.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import overhead
import pds_step
import torch
from torch import Tensor

import prescore
from prescore.images import to_uint8

HERE = Path(__file__).parent
LIMITS = {64: 0.05, 256: 0.02, 1024: 0.01}
SECONDS = 8 * 60
Found = tuple[bool, dict[str, Any]]


def drawn(model: str, n: int, **opened: Any) -> Tensor:
    return prescore.draw(prescore.load(model, **opened), n=n, sampler="p-ode-3m", calls=8, progress=False).cpu()


def difference(a: Tensor, b: Tensor, model: str) -> tuple[float, float]:
    """Largest and root mean square, of the range of the data."""
    low, high = prescore.load(model).picture_range or (0.0, 1.0)
    d = (a - b) / (high - low)
    return d.abs().max().item(), d.square().mean().sqrt().item()


def parity(options: argparse.Namespace) -> Found:
    rows = {}
    for model in options.models:
        most, rms = difference(drawn(model, options.n), drawn(model, options.n, device=options.device), model)
        rows[model] = {"largest": most, "rms": rms}
    return all(row["largest"] <= 2e-3 for row in rows.values()), rows


def half(options: argparse.Namespace) -> Found:
    rows, passed = {}, True
    for model in options.models:
        exact = drawn(model, options.n, device=options.device)
        for dtype, most in ((torch.float16, 0.02), (torch.bfloat16, 0.05)):
            _, rms = difference(exact, drawn(model, options.n, device=options.device, dtype=dtype), model)
            rows[f"{model} {str(dtype).removeprefix('torch.')}"] = rms
            passed &= rms <= most
    return passed, rows


def compiled(options: argparse.Namespace) -> Found:
    model = options.models[0]
    eager, fast = (prescore.load(model, device=options.device, compile=c) for c in (False, True))
    x = torch.randn(options.batch, *eager.event_shape, device=options.device, dtype=eager.dtype)
    sigma = torch.tensor(1.0, device=options.device, dtype=eager.dtype)
    with torch.no_grad():
        most = (eager(x, sigma) - fast(x, sigma)).abs().max().item()
        kind = torch.device(options.device).type
        times = pds_step.alternate(
            {"eager": lambda: eager(x, sigma), "compiled": lambda: fast(x, sigma)}, kind, options.seconds
        )
    gain = pds_step.median(a / b for a, b in zip(times["eager"], times["compiled"], strict=True))
    return most <= 2e-3, {"largest": most, "times as fast": gain}


def step_of_pds(options: argparse.Namespace) -> Found:
    kind, rows = torch.device(options.device).type, {}
    for size in options.sizes:
        found = pds_step.measure(size, True, kind, options.seconds)
        for row in pds_step.network_shares(found, size, kind):
            if row["state"] == "float32":
                rows[size] = {"seconds": row["seconds"], "share": row.get("share"), "gap": row["gap"]}
    shares = {size: row["share"] for size, row in rows.items() if row["share"] is not None}
    return all(share < LIMITS.get(size, 1) for size, share in shares.items()), rows


def beside_diffusers(options: argparse.Namespace) -> Found:
    kind, rows = torch.device(options.device).type, {}
    inputs = overhead.Inputs.make(overhead.SHAPE, kind)
    for name in ("DDIM", "DPM-Solver++(2M)", "UniPC-2"):
        row = overhead.compare(name, overhead.PAIRS[name], inputs, kind, options.seconds)
        rows[name] = {key: row[key] for key in ("float32", "diffusers", "ratio float32")}
    return all(row["ratio float32"] <= 1 for row in rows.values()), rows


def copies(options: argparse.Namespace) -> Found:
    model = prescore.load(options.models[-1], device=options.device)
    plan = prescore.plan(model, sampler="dpmpp-2m", calls=8)
    x = plan.sample(range(options.batch), progress=False)
    kind, bounds = torch.device(options.device).type, model.picture_range or (0.0, 1.0)
    seconds = pds_step.alternate(
        {
            "drawing": lambda: plan.sample(range(options.batch), progress=False),
            "copy": lambda: to_uint8(model.decode(x), bounds),
        },
        kind,
        options.seconds,
    )
    medians = {name: pds_step.median(values) for name, values in seconds.items()}
    return True, {**medians, "share": medians["copy"] / (medians["drawing"] + medians["copy"])}


def batch(options: argparse.Namespace) -> Found:
    model = prescore.load(options.models[-1], device=options.device)
    size = prescore.fitting_batch(model, options.largest)
    plan, start = prescore.plan(model, sampler="dpmpp-2m", calls=8), time.perf_counter()
    plan.sample(range(size), progress=False)
    return size > 0, {"size": size, "samples a second, 8 calls": size / (time.perf_counter() - start)}


CHECKS: dict[str, Callable[[argparse.Namespace], Found]] = {
    "parity": parity,
    "half": half,
    "batch": batch,
    "copies": copies,
    "diffusers": beside_diffusers,
    "pds-step": step_of_pds,
    "compile": compiled,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--checks", nargs="+", choices=[*CHECKS], default=[*CHECKS])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gpu.json")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try the script")
    options = parser.parse_args(arguments)
    options.models = ["mnist-edm"] if options.quick else ["mnist-edm", "natural-edm", "emoji-ve"]
    options.n, options.batch, options.largest = (2, 2, 4) if options.quick else (32, 128, 4096)
    options.seconds = 0.1 if options.quick else 4.0
    options.sizes = [64] if options.quick else [64, 256, 1024]
    if options.quick:
        overhead.SHAPE = (1, 3, 16, 16)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    start, results = time.perf_counter(), dict[str, Any]()
    for name in options.checks:
        if time.perf_counter() - start > SECONDS:
            results[name] = {"passed": None, "why": f"{SECONDS} seconds were over"}
            continue
        began = time.perf_counter()
        try:
            passed, found = CHECKS[name](options)
            results[name] = {"passed": passed, "found": found}
        except Exception as error:  # the other checks are worth having
            results[name] = {"passed": False, "why": f"{type(error).__name__}: {error}"}
        results[name]["seconds"] = time.perf_counter() - began
        print(f"{name}: {json.dumps(results[name])}", flush=True)
    machine = pds_step.machine(torch.device(options.device).type)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"machine": machine, "quick": options.quick, "checks": results}, indent=1) + "\n")
    return int(any(result["passed"] is False for result in results.values()))


if __name__ == "__main__":
    raise SystemExit(main())
