"""prescore's samplers as schedulers of Hugging Face diffusers, for any pipeline that takes one.

The state that a pipeline carries is x_t = s(sigma) x in the coordinates of the network, so that `init_noise_sigma` is 1
and networks are given what they are used to; the sampler inside works in unscaled x.

Source: diffusers 0.42, https://github.com/huggingface/diffusers (Apache 2.0), `SchedulerMixin`.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from prescore.adapters import Given, plan_on
from prescore.checkpoints.diffusers_schedulers import FLOW, TABULATED, scheduler_meaning
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
from prescore.schedule import RectifiedFlow, Schedule
from prescore.statistics import Statistics, load_statistics, save_statistics

STATISTICS = "statistics.safetensors"  # beside a configuration that is saved

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
        source: the scheduler that came with the pipeline, which says what the network predicts; or one made by this
            function, for which that holds still.
        sampler: a name in `prescore.SAMPLERS` that calls the network once a step.
        statistics: of the latents, or of the pictures where there are no latents; or the path of their file.
        calls: number of steps, whatever number the pipeline asks for; by default that number.
        options: of the sampler, and others that `prescore.plan` takes, such as basis, alpha or start.

    Raises:
        PrescoreError: what the network predicts is not known, the statistics cannot be read, or the sampler is unknown
            or calls the network more than once a step.
    """
    own = said_by(source)
    # By their names: diffusers takes others for defaults, which it does not hand on.
    return PrescoreScheduler(source=own, sampler=sampler, statistics=statistics, calls=calls, options=options)


def said_by(source: SchedulerMixin) -> dict[str, Any]:
    """The configuration of a pipeline's own scheduler, with the name of its class, as JSON values."""
    if isinstance(source, PrescoreScheduler):
        return source.source
    own: Any = source
    values = {key: np.asarray(value).tolist() if key == "trained_betas" else value for key, value in own.config.items()}
    return {**values, "_class_name": type(source).__name__}


class PrescoreScheduler(SchedulerMixin, ConfigMixin):
    """A sampler of prescore as a scheduler; `scheduler` makes one.

    Its configuration has the entries of the source's too: pipelines read some, and another scheduler of diffusers can
    be made of it by `from_config`. Where it is saved, its statistics are saved beside it, as `STATISTICS`.

    Args:
        source: configuration of the scheduler that says what the network predicts, with the name of its class.
        sampler, statistics, calls, options: as `scheduler` takes them.
    """

    config_name: Any = "scheduler_config.json"
    order = 1
    init_noise_sigma = 1.0
    _compatibles: list[str] = [*TABULATED, *FLOW]  # noqa: RUF012 (declared so by diffusers)

    @register_to_config
    def __init__(
        self,
        source: dict[str, Any],
        sampler: str = "p-ode-3m",
        statistics: Statistics | str | Path | None = None,
        calls: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.source = dict(source)
        self.meaning = scheduler_meaning(self.source, {"time_embedding_type": "positional"})
        if self.meaning.preconditioning not in OUTPUTS:
            raise PrescoreError(f"source: {source['_class_name']} belongs to networks that are not called in x_t")
        self.schedule, self.time_scale = self._schedule_of()
        find_sampler(sampler)
        self.statistics = load_statistics(statistics) if isinstance(statistics, str | Path) else statistics
        self.register_to_config(statistics=None if self.statistics is None else STATISTICS)
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self.sigmas = self.timesteps = torch.empty(0)

    @property
    def config(self) -> FrozenDict:
        said = {name: value for name, value in self.source.items() if not name.startswith("_")}
        flow = {"use_flow_sigmas": True} if self._is_flow else {}  # pipelines then leave the levels to the scheduler
        return FrozenDict({**said, **flow, **self._internal_dict, "statistics": self.statistics})

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the configuration, and beside it the statistics."""
        if self.statistics is not None:
            os.makedirs(save_directory, exist_ok=True)
            save_statistics(self.statistics, Path(save_directory) / STATISTICS)
        super().save_config(save_directory, push_to_hub, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], subfolder: str | None = None, **kwargs: Any
    ) -> Any:
        """What `save_config` wrote. Raises PrescoreError where the statistics that it had are missing."""
        if (beside := Path(pretrained_model_name_or_path) / (subfolder or "") / STATISTICS).is_file():
            kwargs.setdefault("statistics", str(beside))
        return super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)

    def _schedule_of(self, mu: float | None = None) -> tuple[Schedule, float]:
        source, scale = self.source, self.meaning.arguments["time_scale"]
        if self.meaning.preconditioning == "flow":
            shift = source.get("shift") or source.get("flow_shift") or 1.0
            if mu is not None and source.get("use_dynamic_shifting"):
                shift = mu if source.get("time_shift_type") == "linear" else math.exp(mu)
            return RectifiedFlow(shift), scale
        assert self.meaning.schedule is not None
        return self.meaning.schedule, scale

    def __len__(self) -> int:
        return int(self.source.get("num_train_timesteps") or 1000)

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
        its shift, as diffusers has it), and 0 at the end; mu is what a flow with dynamic shifting is shifted by.

        So many steps are the sampler's usual ones; of flow models without statistics t from 1 to 1 / n, then shifted.
        """
        config, known, is_flow = self.config, self.statistics, self._is_flow
        schedule, scale = self._schedule_of(mu)
        low, high = self.meaning.sigma_min, self.meaning.sigma_max
        shape = (1,) if known is None else known.moments.event_shape
        given: dict[str, Any] = {} if known is None else {"data_range": known.data_range}
        model = Denoiser(lambda x, sigma: x, shape, min(low, high / 2), high, **given)
        planned: dict[str, Any] = {"statistics": known, **(config["options"] or {})}
        name, steps = config["sampler"], config["calls"] or num_inference_steps
        if timesteps is not None:
            t = torch.as_tensor(timesteps, dtype=torch.float64) / scale
            levels = t / (1 - t).clamp(min=1e-9) if is_flow else schedule.sigma(t)
        elif sigmas is not None:
            levels = torch.as_tensor(sigmas, dtype=torch.float64)
            levels = levels[:-1] if len(levels) and levels[-1] == 0 else levels
            levels = schedule.sigma(levels) if is_flow else levels
        elif steps is None:
            raise PrescoreError("num_inference_steps: give it, timesteps, or sigmas")
        elif is_flow and known is None:
            levels = schedule.sigma(torch.linspace(1, 1 / steps, steps, dtype=torch.float64))
        else:
            usual: dict[str, Any] = {} if known is not None else {"sigma_max": high}
            method = plan(model, sampler=name, calls=steps, **usual, **planned)
            levels = method.levels[:-1]
        if not len(levels) or (levels <= 0).any() or (levels.diff() >= 0).any():
            raise PrescoreError("timesteps, sigmas: positive noise levels that decrease are needed")
        self._levels = torch.cat([levels, levels.new_zeros(1)])
        wide = Denoiser(model.function, shape, 0.0, levels[0].item(), **given)
        self._plan = plan_on(self._levels, wide, name, **planned)
        self._sampler = self._plan.sampler
        if self._sampler.total_calls(len(levels)) != len(levels):
            raise PrescoreError(f"sampler: {name!r} calls the network more than once a step; p-ode-3m does not")
        times = scale * (levels / (1 + levels) if is_flow else schedule.t(levels))
        self.timesteps = times.to(device=device, dtype=torch.float32)
        self.sigmas = self._levels.float()
        self.num_inference_steps = len(levels)
        self._step_index = self._begin_index = None
        self._state: Any = self._sampler.start(self._levels)
        self._carried = (torch.empty(0), torch.empty(0))  # what the last step returned, and the same unscaled
        self._started: Tensor | None = None
        self._is_noised = False

    def scale_model_input(self, sample: Tensor, timestep: Tensor | float | None = None) -> Tensor:
        """What the network is given: the sample itself, but at the first step from pure noise the sampler's own start,
        row by row, since guidance doubles them."""
        if self._step_index is not None or not self._is_at_noise(timestep):
            return sample
        self._started = self._start(sample)
        return self._started

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The state at the next level, like the sample, (B, *event).

        The first step from pure noise starts where the sampler starts. A pipeline that does not call
        `scale_model_input` has shown the network the noise itself, which at that level is nearly the same to it.

        Args:
            model_output: what the network predicted, (B, *event).
            timestep: says where the first step begins, unless `set_begin_index` did; from then on steps are counted.
            sample: the state. A pipeline may change it between steps, as inpainting does.
            generator: or one for each row, of samplers that draw noise.

        Raises:
            PrescoreError: there is no step left, or the statistics are of events of another shape.
        """
        known, seen = self.statistics, sample
        if known is not None and known.event_shape != tuple(sample.shape[1:]):
            raise PrescoreError(
                f"statistics: they are of events of shape {known.event_shape}, the pipeline's have "
                f"{tuple(sample.shape[1:])}"
            )
        if self._step_index is None:
            self._step_index = self._first(timestep)
            self._state = self._sampler.start(self._levels[self._step_index :])
            if self._is_at_noise(timestep) and not _same(self._started, sample):
                sample = self._start(sample)
                seen = sample if self._started is not None else seen
            self._started = None
        if self._step_index >= len(self._levels) - 1:
            raise PrescoreError(f"step: all {len(self._levels) - 1} steps are done; call set_timesteps before more")
        sigma, sigma_next = self._levels[self._step_index], self._levels[self._step_index + 1]
        left, x = self._carried
        x = x if _same(left, sample) else self._unscaled(sample, sigma)
        given = x if seen is sample else self._unscaled(seen, sigma)
        denoised = OUTPUTS[self.meaning.preconditioning](model_output.double(), given, sigma)
        x, self._state = self._sampler.step(
            lambda *_: denoised, x, sigma, sigma_next, self._state, _Draws(sample, generator)
        )
        after = (x * self.schedule_scale(sigma_next)).to(sample.dtype)
        self._carried = (after, x)
        self._step_index += 1
        return SchedulerOutput(prev_sample=after) if return_dict else (after,)

    def _first(self, timestep: Tensor | float | None) -> int:
        """The index of the first step."""
        if self._begin_index is not None:
            return self._begin_index
        times = self.timesteps.tolist()
        return times.index(time) if timestep is not None and (time := float(timestep)) in times else 0

    def _is_at_noise(self, timestep: Tensor | float | None) -> bool:
        """Whether what the first step begins from is noise alone, and no picture with noise on it."""
        return not self._is_noised and self._first(timestep) == 0

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = s (x0 + sigma n) at these times of the network, one a row."""
        self._is_noised = True
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
        sigma, z = self._levels[0], sample.double()
        own = self._plan.initial(Given(z))
        is_plain = torch.equal(own, sigma * z)
        return sample if is_plain else (own * self.schedule_scale(sigma)).to(sample.dtype)


def _same(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.shape == b.shape and torch.equal(a, b)


class _Draws(NoiseSource):
    """Normal draws of the pipeline's generators, like a sample."""

    def __init__(self, like: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> None:
        self.like, self.generator = like, generator
        self.event_shape, self.dtype, self.device = tuple(like.shape[1:]), torch.float64, like.device

    def __call__(self) -> Tensor:
        generator: Any = list(self.generator) if isinstance(self.generator, Sequence) else self.generator
        return randn_tensor(self.like.shape, generator=generator, device=self.device).double()
