"""Networks as users bring them: trained in plain PyTorch for minutes, wrapped by one line, calibrated, drawn by `auto`.

    python benchmarks/user_networks.py --data data/fashion-mnist.npz --minutes 3

Three networks of about a million parameters on pictures of clothes of 14 x 14 pixels: one predicts the noise of DDPM
with linear betas, one the score at sigma from 0.01 to 50, one the velocity of flow matching. Each is measured on 200
pictures (`prescore.calibrate(data, model=model, calls=(5, 8))`) and draws n samples by `auto`, `dpmpp-2m` and `unipc`
in 5, 8 and 20 calls, with and without what was measured. Printed is the Frechet distance of pixels to 10,000 other
pictures, beside that of as many true ones; and what is warned of. Weights are kept in --cache, so that a run goes on.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import prescore
from prescore import Denoiser
from prescore.denoiser import from_flow, from_noise_prediction, from_score
from prescore.models.song_unet import SongUNet
from prescore.schedule import Tabulated

SHAPE, LOW, HIGH = (1, 14, 14), 0.01, 50.0
BETAS = torch.linspace(1e-4, 0.02, 1000)
KINDS = ("noise", "score", "flow")
CALLS = (5, 8, 20)


def network(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return SongUNet(
        14, 1, 1, model_channels=64, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[7], generator=generator
    )


def target(kind: str, x0: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """What the network is called with, x and its time, and what it should answer."""
    n, u = torch.randn(x0.shape, generator=g), torch.rand(len(x0), generator=g)
    broad = (-1, 1, 1, 1)
    if kind == "noise":
        t = (u * 1000).long()
        alpha_bar = torch.cumprod(1 - BETAS, 0)[t].reshape(broad)
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * n, t.float() / 1000, n
    if kind == "score":
        sigma = (LOW * (HIGH / LOW) ** u).reshape(broad)
        return x0 + sigma * n, sigma.flatten().log() / 4, -n
    t = u.reshape(broad)
    return (1 - t) * x0 + t * n, u, n - x0


def train(kind: str, data: Tensor, minutes: float, cache: Path) -> nn.Module:
    net, file = network(0), cache / f"user-{kind}-{minutes:g}.pt"
    if file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        return net.eval()
    optimizer, g = torch.optim.Adam(net.parameters(), 1e-3), torch.Generator().manual_seed(1)
    start, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < 60 * minutes:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, 2 * (1 - passed / (60 * minutes)))
        x0 = data[torch.randint(len(data), (64,), generator=g)]
        x, t, wanted = target(kind, x0, g)
        loss = (net(x, t) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    print(f"{kind}: {steps} steps, loss {loss.item():.3f}", flush=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), file)
    return net.eval()


def wrapped(kind: str, net: nn.Module) -> Denoiser:
    """By the line that the documentation names for it."""
    if kind == "noise":
        function = from_noise_prediction(
            lambda x, t: net(x, t.float() / 1000), Tabulated.from_betas(BETAS), integer_time=True
        )
        return Denoiser(function, SHAPE, data_range=(-1, 1))
    if kind == "score":

        def score(x: Tensor, sigma: Tensor) -> Tensor:
            s = sigma.reshape(-1, 1, 1, 1)
            return net(x, (sigma.log() / 4).expand(len(x))) / s

        return Denoiser(from_score(score), SHAPE, LOW, HIGH, data_range=(-1, 1))
    return Denoiser(from_flow(lambda x, t: net(x, t.expand(len(x))), time_scale=1), SHAPE, data_range=(-1, 1))


def pictures(file: Path) -> tuple[Tensor, Tensor]:
    """60,000 to train on, 10,000 to measure against, in [-1, 1]."""
    with np.load(file) as arrays:
        both = [torch.from_numpy(arrays[name])[..., 0].float() for name in ("train", "test")]
    small = [nn.functional.avg_pool2d(x[:, None], 2) / 127.5 - 1 for x in both]
    return small[0], small[1]


def distance(x: Tensor, true: Tensor) -> float:
    found = prescore.evaluate(x.float().clamp(-1, 1), true, features="pixels", metrics=["frechet"], data_range=(-1, 1))
    return found.metrics["frechet"]


def rows(kind: str, model: Denoiser, n: int, data: Tensor, true: Tensor, show: Callable[[str], None]) -> None:
    statistics = prescore.calibrate(data[:200], data_range=(-1, 1))
    measured = prescore.calibrate(data[:200], model=model, calls=CALLS[:2], data_range=(-1, 1), progress=False)
    runs = {
        "auto, statistics and model measured": ("auto", measured),
        "auto, statistics alone": ("auto", statistics),
        "dpmpp-2m": ("dpmpp-2m", None),
        "unipc": ("unipc", None),
    }
    for name, (sampler, known) in runs.items():
        values, notes = [], set()
        for calls in CALLS:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                x = prescore.draw(model, n, sampler=sampler, calls=calls, statistics=known, batch_size=200)
            notes |= {type(w.message).__name__ for w in caught if type(w.message).__module__.startswith("prescore")}
            values.append(distance(x, true))
        show(f"| {kind} | {name} | {' | '.join(f'{v:.2f}' for v in values)} | {', '.join(sorted(notes))} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data/fashion-mnist.npz"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--cache", type=Path, default=Path("data"))
    options = parser.parse_args()
    data, true = pictures(options.data)
    print(f"| network | sampler | {' | '.join(f'{c} calls' for c in CALLS)} | warnings |\n|-|-|-|-|-|-|")
    print(f"| | {options.n} true pictures | {distance(data[-options.n :], true):.2f} | | | |", flush=True)
    for kind in options.kinds:
        model = wrapped(kind, train(kind, data, options.minutes, options.cache))
        rows(kind, model, options.n, data, true, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
