"""Arithmetic of one step of PDS, beside the formulation of its authors' code.

One step is a Langevin correction and a reverse-diffusion prediction, with everything but the network and the drawing
of noise: the denoiser returns a tensor made beforehand, and so does the noise source. Both formulations compute the
same numbers, which is checked before they are timed.

    authors   complex transforms over (H, W), one axis at a time, in float32:
                  M z = Re D^-1 f D (s z),    M M^T g = Re D^-1 f D (s^2 D^-1 (f D g)),
              six of them in the corrector and six in the predictor, also where s is 1. Masks are float32, as the
              authors' script writes them; with masks in float64 all of it is done in complex double precision.
    prescore  `PredictorCorrector.correct` and `.predict`: real transforms over both axes, M^T and M shared between
              drift and noise, norms taken from the spectrum: 4 forward and 2 inverse for a frequency preconditioner,
              5 and 4 for frequency times pixel.

Measured are, per step: time, by runs that alternate between the formulations (the ratio is the median of the ratios
of neighbouring runs; on one CPU thread it is processor time, in which other programs do not show); peak memory, from
the allocations of torch during a step, and as resident memory of the process; the floor, which is the transforms
alone as measured here plus the fewest passes over the data that the formulas need, at the bandwidth of a copy; and
one call of a SongUNet of the same image size.

Source: Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504,
Algorithm 2 and Table 8 (which has 20, 6 and 7 % of overhead at 64, 256 and 1024 pixels).
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from prescore.models import SongUNet
from prescore.noise import NoiseSource
from prescore.operators import Frequency, Pixel
from prescore.precondition import Preconditioner
from prescore.samplers import PredictorCorrector

Row = dict[str, Any]
HERE = Path(__file__).parent
STATES = {"float32": torch.float32, "float64": torch.float64}
BATCH = {32: 64, 64: 32, 256: 4, 1024: 1}
SIGMA, SIGMA_NEXT, SNR = 1.0, 0.9, 0.16
# Forward and inverse real transforms of a step, and the fewest passes over an array as large as the state. A stage
# reads its operands and writes its result: score 3, weights 2 unless a later stage can apply them, norms 2,
# combination 3, sum with the state 3.
FLOOR = {False: (4, 2, 20), True: (5, 4, 30)}
# DDPM++ of the EDM paper at 32 and 64; the networks of Song et al. (score_sde) for LSUN 256 and FFHQ 1024.
NETWORKS = {
    32: {"model_channels": 128, "channel_mult": (1, 2, 2, 2), "num_blocks": 4},
    64: {"model_channels": 128, "channel_mult": (1, 2, 2, 2), "num_blocks": 4},
    256: {"model_channels": 128, "channel_mult": (1, 1, 2, 2, 4, 4), "num_blocks": 2},
    1024: {"model_channels": 16, "channel_mult": (1, 2, 4, 8, 16, 32, 32, 32), "num_blocks": 1},
}
NETWORK_LIMIT = 60.0  # seconds


@dataclass(frozen=True)
class Problem:
    """Inputs of one step: the state x, what the network would say of it, draws, and masks (all float32)."""

    x: Tensor
    x0: Tensor
    draws: tuple[Tensor, Tensor]
    f: Tensor  # full spectrum, (1, C, H, W)
    s: Tensor  # (1, C, H, W), or a single 1

    @classmethod
    def make(cls, size: int, batch: int, pixel: bool, device: str) -> "Problem":
        g = torch.Generator().manual_seed(0)
        x, x0, z1, z2 = torch.randn(4, batch, 3, size, size, generator=g).to(device)
        k = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.fftfreq(size)).expand(1, 3, -1, -1)
        f = 1 + 0.25 * k / k.max()
        s = 1 + 0.2 * torch.rand(1, 3, size, size, generator=g) if pixel else torch.ones(1)
        return cls(x, x0, (z1, z2), f.to(device), s.to(device))

    def with_double_masks(self) -> "Problem":
        return replace(self, f=self.f.double(), s=self.s.double())

    @property
    def preconditioner(self) -> Preconditioner:
        M = Preconditioner(Frequency.from_full(self.f[0].double().cpu(), axes=2))
        return M if self.s.numel() == 1 else M @ Preconditioner(Pixel(self.s[0].double().cpu()))


def transform(x: Tensor) -> Tensor:
    return torch.fft.fft(torch.fft.fft(x, dim=2), dim=3)


def inverse(x: Tensor) -> Tensor:
    return torch.fft.ifft(torch.fft.ifft(x, dim=2), dim=3)


def authors_step(p: Problem) -> Tensor:
    """The step as the authors' formulation computes it, float32."""
    f, s, per_sample = p.f, p.s, torch.ones(len(p.x), 1, 1, 1, device=p.x.device)

    def drift(g: Tensor) -> Tensor:
        return inverse(f * transform(s**2 * inverse(f * transform(g)))).real.float()

    def noise(z: Tensor) -> Tensor:
        return inverse(f * transform(s * z)).real.float()

    def mean_norm(v: Tensor) -> Tensor:
        return v.reshape(len(v), -1).norm(dim=-1).mean()

    g, n = drift((p.x0 - p.x) / SIGMA**2), noise(p.draws[0])
    eps = 2 * (SNR * mean_norm(n) / mean_norm(g)) ** 2 * per_sample
    x = p.x + eps * g + (2 * eps).sqrt() * n
    variance = (SIGMA**2 - SIGMA_NEXT**2) * per_sample
    mean = x - drift(-variance * ((p.x0 - x) / SIGMA**2))
    return mean + variance.sqrt() * noise(p.draws[1])


class Draws(NoiseSource):
    """The two draws of one step, in the given precision."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.rows, self.draw = draws, 0

    def __call__(self) -> Tensor:
        self.draw += 1
        return self.rows[(self.draw - 1) % 2]


def prescore_step(p: Problem, dtype: torch.dtype, norm: str = "sample") -> Callable[[], Tensor]:
    """The step by the library's sampler, with the state in `dtype`; all preparation happens here."""
    sampler = PredictorCorrector(preconditioner=p.preconditioner, snr=SNR, norm=norm)
    x, x0, noise = p.x.to(dtype), p.x0.to(dtype), Draws(list(p.draws))
    sigma, sigma_next = torch.tensor([SIGMA, SIGMA_NEXT], dtype=torch.float64)

    def step() -> Tensor:
        corrected = sampler.correct(lambda x, sigma: x0, x, sigma, noise)
        return sampler.predict(lambda x, sigma: x0, corrected, sigma, sigma_next, noise)

    return step


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one run: of processor time if there is one thread on the CPU, else of wall-clock time."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def alternate(runs: Mapping[str, Callable[[], object]], device: str, seconds: float) -> dict[str, list[float]]:
    """Times of each run, taken in turn (A B A B ...) for about `seconds`, at least 5 and at most 200 times each."""
    for run in runs.values():
        for _ in range(2):
            timed(run, device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    start = time.perf_counter()
    while len(times[next(iter(runs))]) < 5 or time.perf_counter() - start < seconds:
        for name, run in runs.items():
            times[name].append(timed(run, device))
        if len(times[name]) == 200:
            break
    return times


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Most bytes of tensors that were alive at once during a run, beyond those alive before it."""
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    alive = peak = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def resident_peak(run: Callable[[], object]) -> int | None:
    """Growth in bytes of the resident memory of this process during a run. Linux only."""

    def status(key: str) -> int:
        return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0]) * 1024  # given in kB

    try:
        ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, so that it does not hide what the run needs
        Path("/proc/self/clear_refs").write_text("5")  # start a new peak
        before = status("VmRSS")
        run()
        return status("VmHWM") - before
    except (OSError, AttributeError):
        return None


def floor_seconds(p: Problem, dtype: torch.dtype, device: str) -> float:
    """Transforms alone, and the fewest passes at the speed of a copy (which is a read and a write)."""
    x = p.x.to(dtype)
    X = torch.fft.rfft2(x)
    out = torch.empty_like(x)
    runs = {
        "forward": partial(torch.fft.rfft2, x),
        "inverse": partial(torch.fft.irfft2, X, s=x.shape[-2:], norm="forward"),
        "copy": partial(out.copy_, x),
    }
    t = {name: median(times) for name, times in alternate(runs, device, 0.5).items()}
    forward, backward, passes = FLOOR[p.s.numel() > 1]
    return forward * t["forward"] + backward * t["inverse"] + passes * t["copy"] / 2


def network_seconds(size: int, batch: int, device: str) -> float:
    """Seconds of one call of the SongUNet of that size, for the whole batch."""
    net = SongUNet(size, 3, 3, **NETWORKS[size], generator=torch.Generator().manual_seed(0)).to(device).eval()
    x, labels = torch.zeros(batch, 3, size, size, device=device), torch.zeros(1, device=device)
    with torch.no_grad():
        first = timed(lambda: net(x, labels), device)
        return first if first > 5 else median(timed(lambda: net(x, labels), device) for _ in range(3))


def network_in_time(size: int, batch: int, device: str) -> float | None:
    """The same in a process of its own, or None if that takes longer than NETWORK_LIMIT."""
    arguments = [sys.executable, __file__, "--network-call", str(size), str(batch), "--device", device]
    arguments += ["--threads", str(torch.get_num_threads())]
    with contextlib.suppress(subprocess.TimeoutExpired):
        run = subprocess.run(arguments, capture_output=True, text=True, timeout=NETWORK_LIMIT, check=True)
        return float(run.stdout)
    return None


def measure(size: int, pixel: bool, device: str, seconds: float) -> list[Row]:
    """One row for each precision of the state."""
    p = Problem.make(size, BATCH[size], pixel, device)
    check_agreement(p)
    steps = {name: prescore_step(p, dtype) for name, dtype in STATES.items()}
    authors = partial(authors_step, p)
    times = alternate({"authors": authors, **steps}, device, seconds)
    doubled = alternate({"authors": partial(authors_step, p.with_double_masks())}, device, seconds / 4)["authors"]
    rows = []
    for name, step in steps.items():
        floor = floor_seconds(p, torch.float32, device)
        row: Row = {
            "size": size,
            "batch": BATCH[size],
            "preconditioner": "frequency + pixel" if pixel else "frequency",
            "state": name,
            "runs": len(times[name]),
            "seconds": median(times[name]),
            "authors_seconds": median(times["authors"]),
            "ratio": median(a / b for a, b in zip(times["authors"], times[name], strict=True)),
            "authors_seconds_double_masks": median(doubled),
            "floor_seconds": floor,
            "gap": median(times[name]) / floor,
        }
        rows.append(row | memory_of(step, authors, device))
    return rows


def check_agreement(p: Problem) -> None:
    """Stop unless both formulations make the same step."""
    ours, theirs = prescore_step(p, torch.float32, "batch")(), authors_step(p)
    error = ((ours - theirs).norm() / theirs.norm()).item()
    # In float32 torch's norm of 3 million numbers, which the authors' step size rests on, is off by 6e-5.
    if not error < 1e-4:
        raise SystemExit(f"the two formulations disagree at {p.x.shape[-1]} pixels: relative difference {error:.2g}")


def memory_of(step: Callable[[], object], authors: Callable[[], object], device: str) -> Row:
    """Bytes that a step needs beyond its inputs."""
    row: Row = {"memory": peak_memory(step, device), "authors_memory": peak_memory(authors, device)}
    if device == "cpu":
        row |= {"resident": resident_peak(step), "authors_resident": resident_peak(authors)}
    return row


def network_shares(rows: Sequence[Row], size: int, device: str) -> list[Row]:
    """The rows of one size, with the seconds of a network call and the share of the step in them."""
    # On a CPU the time is proportional to the number of images: one is enough.
    batch = BATCH[size] if device == "cuda" else 1
    call = network_in_time(size, batch, device)
    if call is None:
        print(f"a network call at {size} pixels takes more than {NETWORK_LIMIT:.0f} s here: no share", file=sys.stderr)
        return list(rows)
    call *= BATCH[size] / batch
    return [row | {"network_seconds": call, "share": row["seconds"] / call} for row in rows]


def table(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    head = ["pixels", "batch", "preconditioner", "state", "ms", "floor ms", "authors ms", "ratio", "(float64 masks)"]
    head += ["MB", "authors MB", "of one call", "runs"]
    lines = [head, ["---"] * len(head)]
    for r in rows:
        share = "-" if r.get("share") is None else f"{100 * r['share']:.2g} %"
        ms = [f"{1e3 * r[key]:.3g}" for key in ("seconds", "floor_seconds", "authors_seconds")]
        ratios = [f"{r['ratio']:.1f}", f"{r['authors_seconds_double_masks'] / r['seconds']:.1f}"]
        megabytes = [f"{r[key] / 1e6:.3g}" for key in ("memory", "authors_memory")]
        shape = [str(r["size"]), str(r["batch"]), r["preconditioner"], r["state"]]
        lines.append([*shape, *ms, *ratios, *megabytes, share, str(r["runs"])])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {torch.get_num_threads()} thread(s)"
    return f"{name}, torch {torch.__version__}"


def processor() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return platform.processor() or "CPU"


def write_readme(path: Path, text: str) -> None:
    """Replace what stands between the two marks."""
    begin, end = "<!-- pds_step -->\n", "\n<!-- end of pds_step -->"
    before, _, rest = path.read_text().partition(begin)
    path.write_text(before + begin + text + end + rest.partition(end)[2])


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time one step of PDS beside the authors' formulation")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(BATCH), choices=list(BATCH))
    parser.add_argument("--seconds", type=float, default=3.0, help="for each size and preconditioner")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="by default both, where there is a GPU")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--no-network", action="store_true", help="do not time the SongUNet")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "pds_step.json")
    parser.add_argument("--readme", action="store_true", help="put the table into docs/benchmarks.md")
    parser.add_argument("--network-call", type=int, nargs=2, metavar=("SIZE", "BATCH"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    torch.set_num_threads(options.threads)
    if options.network_call:
        size, batch = options.network_call
        print(network_seconds(size, batch, options.device))
        return
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler that counts memory announces each start and stop otherwise
    # A network leaves the C library's allocator with its largest thresholds; so does freeing one block of 31 MiB.
    # Without it every run would also time the system handing out and clearing fresh pages.
    torch.zeros(31 * 2**18)
    content, text = {}, ""
    for device in [options.device] if options.device else ["cpu"] + ["cuda"] * torch.cuda.is_available():
        rows: list[Row] = []
        for size in options.sizes:
            with torch.no_grad():
                own = [row for pixel in (False, True) for row in measure(size, pixel, device, options.seconds)]
            rows += own if options.no_network else network_shares(own, size, device)
        content[device] = {"machine": machine(device), "rows": rows}
        text += f"{machine(device)}\n\n{table(rows)}\n\n"
    text += "" if "cuda" in content else "no GPU here"
    print(text)
    options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.readme:
        write_readme(HERE.parent / "docs" / "benchmarks.md", text.strip())


if __name__ == "__main__":
    main()
