"""Arithmetic of a solver between two network calls, beside the scheduler of diffusers for the same method.

    python benchmarks/overhead.py

One run is STEPS steps with a network that costs nothing: it returns tensors made beforehand, the noise eps in float32
(or x0, for ours), as does the source of noise. Timed is everything else that a step needs:

    diffusers  scale_model_input and step, on its own levels and state, in float32
    ours       input scaling s(sigma) x, conversion D = x - sigma eps, and `step`, on the same levels; with the state in
               float32, or in float64 (the default of `prescore.sample`) with the network's input and output converted;
               "x0" is float32 with a network that returns D, as EDM's do, and needs no scaling

Both reach the same sample, which is checked before they are timed. What is computed once for a grid (set_timesteps, our
weights) is left out. Runs alternate; a time is the median over the runs, a ratio the median of the ratios of
neighbouring runs. On one CPU thread it is processor time.

Preconditioned solvers have no peer. Their cost beyond the isotropic solver of the same order is given in pairs of real
FFTs, one forward and one inverse transform of the whole batch as measured here; beside it stand the transforms that a
step makes, counted. What is more than these is the passes over the spectrum, whose weights are one number a frequency.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import torch
from diffusers.utils import logging
from pds_step import machine, timed
from torch import Tensor
from torch.overrides import TorchFunctionMode

import prescore
from prescore.gaussian import frequency_gaussian
from prescore.noise import NoiseSource
from prescore.samplers import Sampler
from prescore.samplers.ddim import DDIM
from prescore.samplers.deis import DEIS
from prescore.samplers.edm import EDMFlow
from prescore.samplers.exponential import Exponential
from prescore.samplers.pndm import PNDM
from prescore.samplers.unipc import UniPC

HERE = Path(__file__).parent
SHAPE, STEPS = (64, 3, 64, 64), 10
DPM = {"prediction": "data", "k": 2, "multistep": True, "weights": "published"}
Run = Callable[[], Tensor]


@dataclass(frozen=True)
class Pair:
    """The same method here and in diffusers.

    Args:
        ours: the sampler on given levels.
        scheduler: name in diffusers, without "Scheduler".  config: its arguments.
        scaled: whether its state is s(sigma) x.
    """

    ours: Callable[[Tensor], Sampler]
    scheduler: str
    config: Mapping[str, Any] = field(default_factory=dict)
    scaled: bool = True

    def make(self, device: str) -> Any:
        scheduler = getattr(diffusers, self.scheduler + "Scheduler")(**self.config)
        scheduler.set_timesteps(STEPS, device=device)
        return scheduler

    def levels(self) -> Tensor:
        """The levels of the scheduler."""
        scheduler = self.make("cpu")
        if not hasattr(scheduler, "sigmas"):
            times = scheduler.timesteps.unique().flip(0)
            alpha_bar = scheduler.alphas_cumprod[times].double()
            return torch.cat([(1 / alpha_bar - 1).sqrt(), torch.zeros(1)])
        levels = scheduler.sigmas.double()
        return torch.unique_consecutive(levels)


PAIRS = {
    "DDIM": Pair(lambda g: DDIM(grid=g), "DDIM", {"clip_sample": False, "set_alpha_to_one": True}),
    "Euler": Pair(lambda g: EDMFlow(grid=g, order=1), "EulerDiscrete", scaled=False),
    "Heun": Pair(lambda g: EDMFlow(grid=g), "HeunDiscrete", scaled=False),
    "DPM-Solver++(2M)": Pair(lambda g: Exponential(grid=g, l=0, **DPM), "DPMSolverMultistep"),
    "SDE-DPM-Solver++(2M)": Pair(
        lambda g: Exponential(grid=g, l=1, **DPM), "DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}
    ),
    "UniPC-2": Pair(lambda g: UniPC(grid=g, p=2), "UniPCMultistep", {"solver_order": 2}),
    "DEIS-2": Pair(
        lambda g: DEIS(grid=g, degree=1, variable="log-rho"),
        "DEISMultistep",
        {"solver_order": 2, "lower_order_final": False},
    ),
    "PNDM (PLMS)": Pair(
        lambda g: PNDM(grid=g, variant="plms"), "PNDM", {"skip_prk_steps": True, "set_alpha_to_one": True}
    ),
}
# Preconditioned solver, and the isotropic one it is compared with.
PRECONDITIONED = {
    "p-ode-1": ({"l": 0}, {"l": 0, "prediction": "data"}),
    "p-ode-2m": ({"l": 0, "k": 2, "multistep": True}, {"l": 0, "k": 2, "multistep": True, "prediction": "data"}),
    "p-ode-3m": (
        {"l": 0, "k": 3, "multistep": True, "warm_up": False},
        {"l": 0, "k": 3, "multistep": True, "warm_up": False, "prediction": "data"},
    ),
    "p-seeds-1": ({"l": 1}, {"l": 1, "prediction": "data"}),
    "p-sde-2m": ({"l": 1, "k": 2, "multistep": True}, {"l": 1, "k": 2, "multistep": True, "prediction": "data"}),
}


class Given(NoiseSource):
    """Tensors made beforehand, in turn: normal draws, and the answers of the network."""

    def __init__(self, rows: Sequence[Tensor]) -> None:
        self.rows, self.draw = rows, 0

    def __call__(self) -> Tensor:
        self.draw += 1
        return self.rows[(self.draw - 1) % len(self.rows)]


@dataclass(frozen=True)
class Inputs:
    """The initial state over sigma_max, answers of the network, and draws, float32."""

    x: Tensor
    answers: Sequence[Tensor]
    draws: Sequence[Tensor]

    @classmethod
    def make(cls, shape: Sequence[int], device: str) -> "Inputs":
        x, *others = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        return cls(x, others[:3], others[3:])

    def ours(self, sampler: Sampler, dtype: torch.dtype, output: str) -> Run:
        """STEPS steps of a sampler with the state in `dtype`."""
        levels = sampler.levels(None, None).to(self.x.device)
        x0 = (levels[0] * self.x).to(dtype)
        scale = {float(s): float(s**2 + 1) ** -0.5 for s in levels}

        def run() -> Tensor:
            answers, noise = Given(self.answers), Given([z.to(dtype) for z in self.draws])

            def denoise(x: Tensor, sigma: Tensor) -> Tensor:
                single = x.float()
                if output == "x0":
                    return answers().to(dtype)
                _ = single * scale.get(float(sigma), 1.0)
                return (single - float(sigma) * answers()).to(dtype)

            x, state = x0, sampler.start(levels)
            for s, t in pairwise(levels):
                x, state = sampler.step(denoise, x, s, t, state, noise)
            return x

        return run

    def theirs(self, pair: Pair, device: str) -> Run:
        """The same by a scheduler. It can run once."""
        scheduler, levels = pair.make(device), pair.levels()
        stochastic = "sde" in str(pair.config)
        answers, noise = Given(self.answers), Given(self.draws)
        scale = (1 + levels[0] ** 2).rsqrt().item() if pair.scaled else 1.0
        x0 = (scale * levels[0].item()) * self.x

        def run() -> Tensor:
            x = x0
            for t in scheduler.timesteps:
                scheduler.scale_model_input(x, t)
                more = {"variance_noise": noise()} if stochastic else {}
                x = scheduler.step(answers(), t, x, return_dict=False, **more)[0]
            last = levels[-1].item()
            return x * (1 + last**2) ** 0.5 if pair.scaled and last else x

        return run


def alternate(makers: Mapping[str, Callable[[], Run]], device: str, seconds: float) -> dict[str, list[float]]:
    """Times of each run, each made anew, taken in turn for about `seconds`, 5 to 100 times."""
    times: dict[str, list[float]] = {name: [] for name in makers}
    for maker in makers.values():
        maker()()
    start, count = time.perf_counter(), 0
    while count < 5 or (count < 100 and time.perf_counter() - start < seconds):
        for name, maker in makers.items():
            times[name].append(timed(maker(), device))
        count += 1
    return times


class Transforms(TorchFunctionMode):
    """Counts real transforms, forward and inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.inverse = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        self.forward += name.startswith("fft_rfft")
        self.inverse += name.startswith("fft_irfft")
        return func(*args, **(kwargs or {}))


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    return median(x / y for x, y in zip(a, b, strict=True))


def compare(name: str, pair: Pair, inputs: Inputs, device: str, seconds: float) -> dict[str, Any]:
    levels = pair.levels()
    sampler = pair.ours(levels)
    forms = {"float32": (torch.float32, "eps"), "float64": (torch.float64, "eps"), "x0": (torch.float32, "x0")}
    makers = {form: (lambda f=f: inputs.ours(sampler, *f)) for form, f in forms.items()}
    makers["diffusers"] = lambda: inputs.theirs(pair, device)
    ours, theirs = makers["float64"]()(), makers["diffusers"]()().double()
    difference = ((ours - theirs).norm() / theirs.norm()).item()
    if not difference < 1e-3:
        raise SystemExit(f"{name}: ours and the scheduler disagree, relative difference {difference:.2g}")
    times = alternate(makers, device, seconds)
    row = {"method": name, "runs": len(times["float32"]), "difference": difference}
    row |= {form: median(values) / STEPS for form, values in times.items()}
    return row | {f"ratio {form}": ratio(times[form], times["diffusers"]) for form in forms}


def preconditioned(name: str, inputs: Inputs, device: str, seconds: float) -> dict[str, Any]:
    """Time beyond the isotropic solver's, in pairs of real transforms."""
    own, isotropic = PRECONDITIONED[name]
    levels = PAIRS["DPM-Solver++(2M)"].levels()
    data = torch.randn(16, *inputs.x.shape[1:], generator=torch.Generator().manual_seed(1)).clamp(-4, 4)
    reference = frequency_gaussian(prescore.calibrate(data, data_range=(-4, 4)))
    samplers = {
        "preconditioned": Exponential(grid=levels, prediction="gaussian", reference=reference, **own),
        "isotropic": Exponential(grid=levels, **isotropic),
    }
    makers = {form: (lambda s=s: inputs.ours(s, torch.float32, "x0")) for form, s in samplers.items()}
    shape = inputs.x.shape[-2:]
    makers["pair"] = lambda: lambda: torch.fft.irfft2(torch.fft.rfft2(inputs.x), s=shape)
    times = alternate(makers, device, seconds)
    row: dict[str, Any] = {"method": name, "runs": len(times["pair"]), "pair": median(times["pair"])}
    row |= {form: median(times[form]) / STEPS for form in samplers}
    run = makers["preconditioned"]()
    with Transforms() as counted:
        run()
    row |= {"forward": counted.forward / STEPS, "inverse": counted.inverse / STEPS}
    extra = zip(times["preconditioned"], times["isotropic"], times["pair"], strict=True)
    return row | {"pairs more": median((a - b) / STEPS / c for a, b, c in extra)}


def tables(rows: Sequence[dict[str, Any]], own: Sequence[dict[str, Any]]) -> str:
    lines = [["method", "diffusers ms", "float32 ms", "float64 ms", "x0 ms", "ratio float32", "float64", "x0", "runs"]]
    lines.append(["---"] * len(lines[0]))
    for r in rows:
        ms = [f"{1e3 * r[form]:.3g}" for form in ("diffusers", "float32", "float64", "x0")]
        ratios = [f"{r['ratio ' + form]:.2f}" for form in ("float32", "float64", "x0")]
        lines.append([r["method"], *ms, *ratios, str(r["runs"])])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    lines = [["method", "ms", "isotropic ms", "pair of FFTs ms", "pairs more", "forward", "inverse", "runs"]]
    lines.append(["---"] * len(lines[0]))
    for r in own:
        ms = [f"{1e3 * r[form]:.3g}" for form in ("preconditioned", "isotropic", "pair")]
        lines.append(
            [r["method"], *ms, f"{r['pairs more']:.2f}", f"{r['forward']:g}", f"{r['inverse']:g}", str(r["runs"])]
        )
    return text + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time solvers between network calls, beside diffusers")
    parser.add_argument("--methods", nargs="+", choices=[*PAIRS, *PRECONDITIONED], default=[*PAIRS, *PRECONDITIONED])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each method")
    parser.add_argument("--batch", type=int, default=SHAPE[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--json", type=Path, default=HERE / "results" / "overhead.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    # Freeing one large block raises the thresholds of the C library's allocator, as a network would: without it, every
    # run would also time the system handing out fresh pages.
    torch.zeros(31 * 2**18)
    inputs = Inputs.make((options.batch, *SHAPE[1:]), options.device)
    with torch.no_grad():
        rows = [compare(m, PAIRS[m], inputs, options.device, options.seconds) for m in options.methods if m in PAIRS]
        own = [preconditioned(m, inputs, options.device, options.seconds) for m in options.methods if m not in PAIRS]
    content = {"machine": machine(options.device), "diffusers": diffusers.__version__, "rows": rows}
    content |= {"preconditioned": own}
    options.json.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{content['machine']}, batch {options.batch} of 3x64x64, milliseconds a step\n\n{tables(rows, own)}")


if __name__ == "__main__":
    main()
