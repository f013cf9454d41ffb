"""prescore's samplers with the calling convention of k-diffusion, which ComfyUI and others share.

k-diffusion itself is not needed: its models are functions `model(x, sigma, **extra_args) -> denoised`.

Source: https://github.com/crowsonkb/k-diffusion (MIT), `sampling.py`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prescore.adapters import Given, plan_on
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.samplers import Progress
from prescore.samplers import sample as run
from prescore.samplers.table import find_sampler
from prescore.schedule.flow import FAR
from prescore.statistics import Statistics, load_statistics

Callback = Callable[[dict[str, Any]], object]


def sampler(name: str, statistics: Statistics | str | Path | None = None, **options: Any) -> Callable[..., Tensor]:
    """A function that samples as those of `k_diffusion.sampling` do.

    The function is `f(model, x, sigmas, extra_args=None, callback=None, disable=None, *, seed=0) -> x`, where

    - `model(x, sigma, **extra_args)` returns the denoised x, sigma (B,);
    - x (B, *event) is the state at sigmas[0], pure noise or a noisy picture;
    - sigmas do not rise; repeats are skipped, a last 0 may be missing, and less than two leave x as it is;
    - callback receives {"x", "i", "sigma", "sigma_hat", "denoised"} after each step: x before it, denoised what the
      model made of that, i the index of the step among sigmas;
    - seed is that of the first row, for samplers that draw noise; the next ones count up.

    Where the levels are too few for a solver, the same method of a lower order takes them.

    Args:
        name: in `prescore.SAMPLERS`.
        statistics: of the model's data in its own coordinates, or the path of their file.
        options: of the sampler, and others that `prescore.plan` takes, such as basis or alpha. With a `start` x is to
            be pure noise, sigmas[0] n: "gaussian" then starts from noisy data of the Gaussian model, of the same n, and
            "noise" from x itself, as it is without a `start`.

    Raises:
        PrescoreError: there is no sampler of this name; when the function is called, as `prescore.plan` and
            `prescore.sample`.
    """
    find_sampler(name)
    known = load_statistics(statistics) if isinstance(statistics, str | Path) else statistics

    def sample(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        *,
        seed: int = 0,
    ) -> Tensor:
        levels = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
        if (levels.diff() > 0).any():
            raise PrescoreError("sigmas: they rise; decreasing noise levels are needed")
        at = [i for i in range(len(levels)) if i == 0 or levels[i] < levels[i - 1]]
        if len(at) < 2:
            return x
        rows, before = x.new_ones(len(x)), x
        answers: list[Tensor] = []  # of the step under way

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            answer = model(x, sigma * rows, **(extra_args or {}))
            if callback is not None and not answers:
                answers.append(answer.clone())
            return answer

        def tell(done: Progress) -> None:
            nonlocal before
            assert callback is not None
            sigma = x.new_tensor(done.sigma)
            callback(
                {
                    "x": before,
                    "i": at[done.step + 1] - 1,
                    "sigma": sigma,
                    "sigma_hat": sigma,
                    "denoised": answers.pop().to(x),
                }
            )
            before = done.x.to(x)

        given: dict[str, Any] = {} if known is None else {"data_range": known.data_range}
        shape, top = tuple(x.shape[1:]), levels[0].item()
        denoiser = Denoiser(denoise, shape, 0.0, top, dtype=x.dtype, device=x.device, **given)
        planned = plan_on(levels[at], denoiser, name, statistics=known, **options)
        begin = x
        if options.get("start") == "gaussian":
            begin = planned.initial(Given(x.double() / planned.levels[0].to(x.device)))
            before = begin.to(x)
        end = run(
            planned.denoiser,
            planned.sampler,
            seeds=range(seed, seed + len(x)),
            initial=begin,
            callback=tell if callback else None,
            progress=not disable,
        )
        return end.to(x)

    return sample


def as_flow(sample: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that `sampler` made, for models of flow matching, which are called in x_t = (1 - t) x0 + t n.

    For the function that is returned, and its callback, x is x_t and sigmas are times t, 1 at most.
    """

    def sample_flow(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
        **how: Any,
    ) -> Tensor:
        t = torch.as_tensor(sigmas, dtype=torch.float64, device="cpu")
        levels = (t / (1 - t)).clamp(max=FAR)
        if not len(levels):
            return x

        def unscaled(y: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            level = sigma.double()
            scale = (1 / (1 + level)).reshape(-1, *(1,) * (y.ndim - 1)).to(y)
            return model(y * scale, (level / (1 + level)).to(y), **extra)

        def tell(done: dict[str, Any]) -> None:
            assert callback is not None
            level = done["sigma"].double()
            time = (level / (1 + level)).to(done["sigma"])
            callback({**done, "x": done["x"] / (1 + level.item()), "sigma": time, "sigma_hat": time})

        first, last = (1 + levels[0]).item(), (1 + levels[-1]).item()
        return sample(unscaled, x * first, levels, extra_args, tell if callback else None, disable, **how) / last

    return sample_flow
