"""prescore's samplers as schedulers of Hugging Face diffusers, for any pipeline that takes one.

The state that a pipeline carries is x_t = s(sigma) x in the coordinates of the network, so that `init_noise_sigma` is 1
and networks are given what they are used to; the sampler inside works in unscaled x.

Source: diffusers 0.42, https://github.com/huggingface/diffusers (Apache 2.0), `SchedulerMixin`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from prescore.adapters import plan_on
from prescore.checkpoints.diffusers_schedulers import scheduler_meaning
from prescore.denoiser import (
    Denoiser,
    denoised_from_flow,
    denoised_from_noise,
    denoised_from_velocity,
    expand,
)
from prescore.errors import PrescoreError
from prescore.noise import NoiseSource
from prescore.plan import plan
from prescore.samplers.table import find_sampler
from prescore.schedule import VP, RectifiedFlow, Schedule, Tabulated
from prescore.statistics import Statistics, load_statistics

OUTPUTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "noise": denoised_from_noise,
    "velocity": denoised_from_velocity,
    "sample": lambda raw, x, sigma: raw,
    "flow": denoised_from_flow,
}


def scheduler(
    source: SchedulerMixin,
    sampler: str = "p-ode-3m",
    statistics: Statistics | str | Path | None = None,
    calls: int | None = None,
    **options: Any,
) -> "PrescoreScheduler":
    """The scheduler to set as `pipe.scheduler`.

    Args:
        source: the scheduler that came with the pipeline, which says what the network predicts.
        sampler: a name in `prescore.SAMPLERS` that calls the network once a step.
        statistics: of the latents, or of the pictures where there are no latents; or the path of their file.
        calls: number of steps, whatever the pipeline asks for; by default what it asks for.
        options: of the sampler.

    Raises:
        PrescoreError: what the network predicts is not known, or the sampler is unknown or calls it more than once.
    """
    path = str(statistics) if isinstance(statistics, str | Path) else getattr(statistics, "source", None) or None
    config: Any = source
    name = {"_class_name": type(source).__name__}
    made = PrescoreScheduler({**dict(config.config), **name}, sampler, path, calls, options)
    if isinstance(statistics, Statistics):
        made.statistics = statistics
    return made


class PrescoreScheduler(SchedulerMixin, ConfigMixin):
    """A sampler of prescore as a scheduler; `scheduler` makes one.

    Args:
        source: configuration of the scheduler that says what the network predicts.
        sampler, calls, options: as `scheduler` takes them.
        statistics: the path of their file.
    """

    config_name: Any = "scheduler_config.json"
    order = 1
    init_noise_sigma = 1.0
    _compatibles: list[str] = []  # noqa: RUF012 (declared so by diffusers)

    @register_to_config
    def __init__(
        self,
        source: dict[str, Any],
        sampler: str = "p-ode-3m",
        statistics: str | None = None,
        calls: int | None = None,
        options: dict[str, Any] | None = None,
        num_train_timesteps: int = 1000,
    ) -> None:
        self.meaning = scheduler_meaning(dict(source), {"time_embedding_type": "positional"})
        if self.meaning.preconditioning not in OUTPUTS:
            raise PrescoreError(f"source: {source['_class_name']} belongs to networks that are not called in x_t")
        self.schedule, self.time_scale = self._schedule_of(dict(source))
        find_sampler(sampler)
        self.statistics: Statistics | None = None
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self.sigmas = self.timesteps = torch.empty(0)

    def _schedule_of(self, source: dict[str, Any], mu: float | None = None) -> tuple[Schedule, float]:
        arguments = self.meaning.arguments
        if self.meaning.preconditioning == "flow":
            shift = source.get("shift") or source.get("flow_shift") or 1.0
            return RectifiedFlow(shift if mu is None else math.exp(mu)), arguments["time_scale"]
        if self.meaning.levels is not None:
            return Tabulated(self.meaning.levels), arguments["time_scale"]
        schedule = dict(arguments["schedule"])
        schedule.pop("kind")
        return VP(**schedule), arguments["time_scale"]

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    @property
    def step_index(self) -> int | None:
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this step, from a noisy picture, as img2img does."""
        self._begin_index = begin_index

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        *,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Decide the levels: so many steps, or the given times of the network, or noise levels (of flow models t before
        its shift, as diffusers has it), and 0 at the end; mu is the logarithm of a flow's shift."""
        config: Any = self.config
        known = self.statistics
        if known is None and config.statistics:
            known = self.statistics = load_statistics(config.statistics)
        schedule, scale = self._schedule_of(dict(config.source), mu)
        is_flow = isinstance(schedule, RectifiedFlow)
        low, high = self.meaning.sigma_min, self.meaning.sigma_max
        shape = (1,) if known is None else known.moments.event_shape
        given: dict[str, Any] = {} if known is None else {"data_range": known.data_range}
        model = Denoiser(lambda x, sigma: x, shape, min(low, high / 2), high, **given)
        planned: dict[str, Any] = {"statistics": known, **(config.options or {})}
        steps = config.calls or num_inference_steps
        if timesteps is not None:
            t = torch.as_tensor(timesteps, dtype=torch.float64) / scale
            levels = t / (1 - t).clamp(min=1e-9) if is_flow else schedule.sigma(t)
        elif sigmas is not None:
            levels = torch.as_tensor(sigmas, dtype=torch.float64)
            levels = schedule.sigma(levels) if is_flow else levels
        elif steps is None:
            raise PrescoreError("num_inference_steps: give it, timesteps, or sigmas")
        elif is_flow and known is None:
            levels = schedule.sigma(torch.linspace(1, 1 / scale, steps, dtype=torch.float64))
        else:
            usual: dict[str, Any] = {} if known is not None else {"sigma_max": high}
            method = plan(model, sampler=config.sampler, calls=steps, **usual, **planned)
            levels = method.levels[:-1]
        if (levels <= 0).any() or (levels.diff() >= 0).any():
            raise PrescoreError("timesteps, sigmas: positive noise levels that decrease are needed")
        self._levels = torch.cat([levels, levels.new_zeros(1)])
        wide = Denoiser(model.function, shape, 0.0, levels[0].item(), **given)
        self._sampler = plan_on(self._levels, wide, config.sampler, **planned).sampler
        if self._sampler.total_calls(len(levels)) != len(levels):
            raise PrescoreError(
                f"sampler: {config.sampler!r} calls the network more than once a step; p-ode-3m does not"
            )
        times = scale * (levels / (1 + levels) if is_flow else schedule.t(levels))
        self.timesteps = times.to(device=device, dtype=torch.float32)
        self.sigmas = self._levels.float()
        self.num_inference_steps = len(levels)
        self._step_index = self._begin_index = None
        self._state: Any = None
        self._carried: tuple[Tensor, Tensor] | None = None
        self._started: Tensor | None = None

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """What the network is given: the sample itself, but at the first step from pure noise the sampler's own start,
        row by row, since guidance doubles them. A pipeline that does not call this keeps its noise as the start."""
        if self._step_index is None and self._begin_index is None:
            self._started = self._start(sample)
            return self._started
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The state at the next level, like the sample, (B, *event).

        Args:
            model_output: what the network predicted, (B, *event).
            timestep: is not looked at: steps are counted, from `set_begin_index` on.
            sample: the state. Where the pipeline has changed it since the last step, the sampler starts anew from it.
            generator: or one for each row, of samplers that draw noise.
        """
        if self._step_index is None:
            self._step_index = self._begin_index or 0
            started = self._started
            if started is not None and not (started.shape == sample.shape and torch.equal(started, sample)):
                sample = self._start(sample)
            self._started = None
        sigma, sigma_next = self._levels[self._step_index], self._levels[self._step_index + 1]
        carried = self._carried
        if carried is not None and carried[0].shape == sample.shape and torch.equal(carried[0], sample):
            x = carried[1]
        else:
            x, self._state = self._unscaled(sample, sigma), self._sampler.start(self._levels[self._step_index :])
        denoised = OUTPUTS[self.meaning.preconditioning](model_output.double(), x, sigma)
        x, self._state = self._sampler.step(
            lambda *_: denoised, x, sigma, sigma_next, self._state, _Draws(sample, generator)
        )
        after = (x * self.schedule_scale(sigma_next)).to(sample.dtype)
        self._carried = (after, x)
        self._step_index += 1
        return SchedulerOutput(prev_sample=after) if return_dict else (after,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = s (x0 + sigma n) at these times of the network, one a row."""
        time = timesteps.double().reshape(-1).cpu() / self.time_scale
        sigma = time / (1 - time).clamp(min=1e-9) if self._is_flow else self.schedule.sigma(time)
        sigma = sigma.expand(len(original_samples)).to(original_samples.device)
        x = original_samples.double()
        noisy = x + expand(sigma, x) * noise.double()
        return (expand(self.schedule_scale(sigma), x) * noisy).to(original_samples.dtype)

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """`add_noise`, under the name that the pipelines of flow models call."""
        return self.add_noise(sample, noise, timestep)

    def schedule_scale(self, sigma: Tensor) -> Tensor:
        """s as a function of the noise level."""
        return 1 / (1 + sigma) if self._is_flow else self.schedule.scale(sigma)

    @property
    def _is_flow(self) -> bool:
        return isinstance(self.schedule, RectifiedFlow)

    def _unscaled(self, sample: Tensor, sigma: Tensor) -> Tensor:
        return sample.double() / self.schedule_scale(sigma).to(sample.device)

    def _start(self, sample: Tensor) -> Tensor:
        """The sampler's start at the first level from pure noise of variance 1: that noise, if it has none of its own.

        Pipelines start from n, which is sigma s n but for the data's share of x_t.
        """
        sigma, noise = self._levels[0], _Draws(sample, None)
        noise.given = sample.double()
        own = self._sampler.initial(noise, sigma)
        is_plain = torch.equal(own, sigma * noise.given)
        return sample if is_plain else (own * self.schedule_scale(sigma)).to(sample.dtype)


class _Draws(NoiseSource):
    """Normal draws of the pipeline's generators, like a sample; or one that is given."""

    def __init__(self, like: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> None:
        self.like, self.generator = like, generator
        self.given: Tensor | None = None
        self.event_shape, self.dtype, self.device = tuple(like.shape[1:]), torch.float64, like.device

    def __call__(self) -> Tensor:
        if self.given is not None:
            return self.given
        if self.generator is None or isinstance(self.generator, torch.Generator):
            return torch.randn(self.like.shape, generator=self.generator, device=self.device).double()
        draws = [torch.randn(self.like.shape[1:], generator=g, device=self.device) for g in self.generator]
        return torch.stack(draws).double()
