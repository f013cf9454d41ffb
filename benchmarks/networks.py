"""A network's call and training step beside diffusers, and the memory of sampling.

    python benchmarks/networks.py

SongUNet is compared with diffusers' UNet2DModel of the same configuration: image size, widths, residual blocks a level,
self-attention with one head, and residual blocks that resample. What is left of the difference is small: UNet2DModel
has attention in all decoder blocks of a level, SongUNet in the last one, and its shortcuts at a resampling have no
kernel. Parameters and floating point operations of both stand beside the times. Attention is fused in both, except in
our training, because score matching needs second derivatives.

    forward   one call without gradients, contiguous or channels-last
    training  forward, backward and a step of Adam, dropout 0

Runs alternate; a time is the median over the runs, a ratio the median of the ratios of neighbouring runs, ours over
theirs: below 1 ours is faster. On one CPU thread it is processor time, in which other programs do not show.

Memory is the most bytes of tensors alive at once while a batch is sampled, beyond the weights, by the number of calls:
it must not grow with them.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
from pds_step import alternate, machine, peak_memory
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import prescore
from prescore.models import EDMPrecond, SongUNet

RESULTS = Path(__file__).parent / "results"
ATTENTION = 16  # pixels at which blocks have it
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
SAMPLERS = ("edm-heun", "edm-stochastic", "dpmpp-3m", "pndm")
STEPS = (10, 50)


@dataclass(frozen=True)
class Case:
    """A configuration that both networks have.

    Args:
        size: side of the image.  widths: channels, level by level.  blocks: a level.  batch: images in a call.
    """

    size: int
    widths: tuple[int, ...]
    blocks: int
    batch: int

    def networks(self, device: str) -> dict[str, nn.Module]:
        levels = [self.size >> k for k in range(len(self.widths))]
        base = min(self.widths)
        ours = SongUNet(
            self.size,
            3,
            3,
            model_channels=base,
            channel_mult=[w // base for w in self.widths],
            num_blocks=self.blocks,
            attn_resolutions=[ATTENTION],
            dropout=0.0,
        )
        theirs = diffusers.UNet2DModel(
            sample_size=self.size,
            block_out_channels=self.widths,
            layers_per_block=self.blocks,
            down_block_types=["AttnDownBlock2D" if r == ATTENTION else "ResnetDownsampleBlock2D" for r in levels],
            up_block_types=["AttnUpBlock2D" if r == ATTENTION else "ResnetUpsampleBlock2D" for r in reversed(levels)],
            downsample_type="resnet",
            upsample_type="resnet",
            attention_head_dim=None,
            norm_eps=1e-6,
        )
        return {"ours": ours.to(device), "diffusers": theirs.to(device)}

    def inputs(self, device: str, memory_format: torch.memory_format) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.batch, 3, self.size, self.size, generator=generator).to(device)
        return x.to(memory_format=memory_format), torch.rand(self.batch, generator=generator).to(device)


CASES = {
    "32 pixels, 64 channels": Case(32, (64, 128, 128), 2, batch=8),
    "32 pixels, 256 channels": Case(32, (256, 256, 256), 4, batch=2),
    "64 pixels, 64 channels": Case(64, (64, 128, 128, 128), 2, batch=4),
}

SAMPLED = Case(32, (32, 64), 1, batch=8)  # memory is counted in tensors, the same for each number of calls


def answer(network: nn.Module, x: Tensor, label: Tensor) -> Tensor:
    out = network(x, label)
    return getattr(out, "sample", out)


def tasks(case: Case, device: str) -> Iterator[tuple[str, dict[str, Callable[[], object]]]]:
    """What is timed, for both networks."""
    networks = case.networks(device)
    for name, memory_format in FORMATS.items():
        converted = {k: deepcopy(n).to(memory_format=memory_format) for k, n in networks.items()}
        x, label = case.inputs(device, memory_format)

        def forward(network: nn.Module, x: Tensor = x, label: Tensor = label) -> None:
            with torch.no_grad():
                answer(network.eval(), x, label)

        def train(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor = x, label: Tensor = label) -> None:
            optimizer.zero_grad()
            answer(network.train(), x, label).square().mean().backward()
            optimizer.step()

        optimizers = {k: torch.optim.Adam(n.parameters(), lr=1e-4) for k, n in converted.items()}
        yield f"forward, {name}", {k: (lambda n=n, f=forward: f(n)) for k, n in converted.items()}
        yield (
            f"training, {name}",
            {k: (lambda n=n, o=optimizers[k], f=train: f(n, o)) for k, n in converted.items()},
        )


def compare(name: str, case: Case, device: str, seconds: float) -> Iterator[dict[str, Any]]:
    size = {}
    for key, network in case.networks(device).items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            answer(network, *case.inputs(device, torch.contiguous_format))
        parameters = sum(p.numel() for p in network.parameters())
        size |= {f"{key} parameters": parameters, f"{key} flops": counter.get_total_flops() / case.batch}
    for task, runs in tasks(case, device):
        times = alternate(runs, device, seconds)
        ratios = [a / b for a, b in zip(times["ours"], times["diffusers"], strict=True)]
        row = {"case": name, "batch": case.batch, "task": task, "runs": len(ratios), "ratio": median(ratios)}
        yield row | {key: median(values) for key, values in times.items()} | size


def sampling_memory(case: Case, device: str) -> Iterator[dict[str, Any]]:
    """Peak memory of sampling a batch, by sampler and number of steps."""
    network = case.networks(device)["ours"].eval().requires_grad_(False)
    shape = (3, case.size, case.size)
    denoise = prescore.Denoiser(EDMPrecond(network), shape, 0.002, 80.0, device=torch.device(device))
    for name in SAMPLERS:
        row: dict[str, Any] = {"sampler": name, "batch": case.batch}
        for steps in STEPS:
            sampler = prescore.make_sampler(name, steps=steps)

            def run(sampler: prescore.Sampler = sampler) -> None:
                prescore.sample(denoise, sampler, seeds=range(case.batch), progress=False)

            row[f"T = {steps}"] = peak_memory(run, device)
        yield row


def table(rows: Sequence[Mapping[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(title: str, rows: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]) -> str:
    speeds = [
        {
            "network": r["case"],
            "batch": str(r["batch"]),
            "task": r["task"],
            "ms": f"{1e3 * r['ours']:.4g}",
            "diffusers ms": f"{1e3 * r['diffusers']:.4g}",
            "a second": f"{1 / r['ours']:.3g}",
            "diffusers": f"{1 / r['diffusers']:.3g}",
            "ratio": f"{r['ratio']:.2f}",
            "runs": str(r["runs"]),
        }
        for r in rows
    ]
    sizes = [
        {
            "network": r["case"],
            "parameters": f"{r['ours parameters'] / 1e6:.1f} M",
            "diffusers": f"{r['diffusers parameters'] / 1e6:.1f} M",
            "GFLOP an image": f"{r['ours flops'] / 1e9:.2f}",
            "diffusers ": f"{r['diffusers flops'] / 1e9:.2f}",
        }
        for r in {r["case"]: r for r in rows}.values()
    ]
    peaks = [
        {"sampler": r["sampler"], "batch": str(r["batch"])}
        | {f"MB at T = {n}": f"{r[f'T = {n}'] / 1e6:.2f}" for n in STEPS}
        for r in memory
    ]
    return f"{title}\n\n{table(speeds)}\n\n{table(sizes)}\n\nMemory of sampling:\n\n{table(peaks)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time networks beside diffusers")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seconds", type=float, default=30.0, help="for each network and task")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--out", type=Path, default=RESULTS / "networks", help="of the .md and .json, without ending")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler that counts memory announces each start and stop otherwise
    torch.zeros(31 * 2**18)  # freed, it raises the thresholds of the C library's allocator, as a network would
    start, rows = time.perf_counter(), []
    for name in options.cases:
        for row in compare(name, CASES[name], options.device, options.seconds):
            rows.append(row)
            print(f"{time.perf_counter() - start:.0f} s: {name}, {row['task']}, ratio {row['ratio']:.2f}", flush=True)
    memory = list(sampling_memory(SAMPLED, options.device))
    content = {"machine": machine(options.device), "diffusers": diffusers.__version__, "rows": rows, "memory": memory}
    title = f"{content['machine']}, diffusers {diffusers.__version__}"
    options.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(report(title, rows, memory))
    print(f"\n{report(title, rows, memory)}")


if __name__ == "__main__":
    main()
