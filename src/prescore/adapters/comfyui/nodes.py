"""The nodes: a SAMPLER, its SIGMAS, and statistics that are measured of a model's own samples.

ComfyUI calls samplers as k-diffusion does; of flow models (those whose sampling is `CONST`) sigma is the time t, and x
is (1 - t) x0 + t n. Latents are those of the model, in which its samplers run, and so are their statistics.

Source: the node interface of ComfyUI, https://docs.comfy.org/custom-nodes/v3_migration.
"""

from pathlib import Path
from typing import Any

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

from prescore.adapters.k_diffusion import as_flow, sampler
from prescore.calibration import calibrate_model
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.models.kl import LATENT_RANGE
from prescore.plan import plan
from prescore.schedule.flow import FAR
from prescore.statistics import Statistics, load_statistics, save_statistics

FOLDER = "prescore"  # of statistics, among those of models
SUFFIX = ".statistics.safetensors"
NONE = "none"
NAMES = (
    "p-ode-3m",
    "p-ode-2m",
    "p-ode-1",
    "dpmpp-2m",
    "dpmpp-3m",
    "unipc",
    "deis-tab",
    "ddim",
    "dpmpp-sde-2m",
    "p-sde-2m",
)
CATEGORY = "sampling/custom_sampling/prescore"


class SamplerNode(io.ComfyNode):
    """A sampler by its name."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PrescoreSampler",
            display_name="prescore Sampler",
            category=CATEGORY,
            description="A solver for few steps; p-ode and p-sde need statistics of the model's latents.",
            inputs=[
                io.Combo.Input("sampler_name", options=list(NAMES)),
                io.Combo.Input("statistics", options=_listed(), tooltip="Measured by prescore Calibrate."),
                io.Combo.Input(
                    "start",
                    options=["noise", "gaussian"],
                    default="noise",
                    optional=True,
                    tooltip="gaussian: noisy latents, as the statistics have them; for empty latents, all SIGMAS.",
                ),
            ],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, sampler_name: str, statistics: str, start: str = "noise") -> Any:
        known = _read(statistics)
        _check_needs(sampler_name, known, start)

        def sample(
            model: Any,
            x: Tensor,
            sigmas: Tensor,
            extra_args: dict[str, Any] | None = None,
            callback: Any = None,
            disable: bool | None = None,
        ) -> Tensor:
            if getattr(x, "is_nested", False):
                raise PrescoreError("latent: it is nested, of several tensors, which prescore's samplers do not know")
            solve = sampler(sampler_name, known, start=start)
            solve = as_flow(solve) if _is_flow(model.inner_model.inner_model.model_sampling) else solve
            return solve(
                model, x, sigmas, extra_args, callback, disable, seed=(extra_args or {}).get("seed", 0) % 2**63
            )

        return io.NodeOutput(comfy.samplers.KSAMPLER(sample))


class SigmasNode(io.ComfyNode):
    """The noise levels that suit a sampler, a number of steps and the statistics."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PrescoreSigmas",
            display_name="prescore Sigmas",
            category=CATEGORY,
            description="The usual noise levels of a sampler, which start where the noise hides the latents.",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("sampler_name", options=list(NAMES)),
                io.Combo.Input("statistics", options=_listed()),
                io.Int.Input("calls", default=8, min=1, max=1000, tooltip="Calls of the model, guidance not counted."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model: Any, sampler_name: str, statistics: str, calls: int, denoise: float) -> Any:
        if denoise <= 0:
            return io.NodeOutput(torch.empty(0))
        known, sampling = _read(statistics), model.get_model_object("model_sampling")
        _check_needs(sampler_name, known)
        total = max(calls, int(calls / denoise))
        levels = plan(_denoiser(sampling, None, known), sampler=sampler_name, calls=total, statistics=known).levels
        levels = levels[-calls - 1 :] if total > calls else levels
        return io.NodeOutput((levels / (1 + levels) if _is_flow(sampling) else levels).float())


class CalibrateNode(io.ComfyNode):
    """Statistics of a model's latents, measured of samples that it draws itself."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="PrescoreCalibrate",
            display_name="prescore Calibrate",
            category=CATEGORY,
            description="Draws samples by a careful solver, one after another, and writes their statistics, which are "
            "in the lists of the other nodes after a restart or a refresh. They serve latents of this shape.",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Latent.Input("latent", tooltip="Its shape is what counts, and its batch for memory."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1),
                io.Int.Input("n", default=64, min=4, max=10000),
                io.Int.Input(
                    "sample_calls", default=40, min=8, max=1000, tooltip="Calls of the model for each of them."
                ),
                io.Int.Input("seed", default=0, min=0, max=2**31),
                io.String.Input("name", default="model"),
            ],
            outputs=[io.String.Output(display_name="statistics")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Tensor],
        cfg: float,
        n: int,
        sample_calls: int,
        seed: int,
        name: str,
    ) -> Any:
        if not name or Path(name).name != name:
            raise PrescoreError(f"name: {name!r} given; the name of a file, without a folder, is needed")
        measured: list[Statistics] = []

        def measure(called: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, *_: Any, **__: Any) -> Tensor:
            sampling = called.inner_model.inner_model.model_sampling

            def denoise(y: Tensor, sigma: Tensor) -> Tensor:
                rows = sigma * y.new_ones(len(y))
                if not _is_flow(sampling):
                    return called(y, rows, **(extra_args or {}))
                scale = (1 / (1 + rows)).reshape(-1, *(1,) * (y.ndim - 1))
                return called(y * scale, rows / (1 + rows), **(extra_args or {}))

            denoiser = _denoiser(sampling, denoise, None, x)
            statistics = calibrate_model(
                denoiser, n=n, sample_calls=sample_calls, seed=seed, batch_size=len(x), trajectories=0, progress=True
            )
            measured.append(statistics)
            return x

        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        like = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        top = model.get_model_object("model_sampling").sigma_max
        sigmas = torch.tensor([float(top), 0.0])
        guider.sample(torch.zeros_like(like), like, comfy.samplers.KSAMPLER(measure), sigmas, seed=seed)
        folder = Path(folder_paths.models_dir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        save_statistics(measured[0], folder / f"{name}{SUFFIX}")
        return io.NodeOutput(f"{name}{SUFFIX}")


class Nodes(ComfyExtension):
    """What ComfyUI is given."""

    async def get_node_list(self) -> list[type]:
        return [SamplerNode, SigmasNode, CalibrateNode]


def _is_flow(sampling: object) -> bool:
    return isinstance(sampling, comfy.model_sampling.CONST)


def _denoiser(sampling: Any, function: Any, known: Statistics | None, x: Tensor | None = None) -> Denoiser:
    """The model in unscaled x, with the noise range that its sampling says.

    Args:
        function: what is called, or None where nothing is.
        x: latents as it takes them, or None.
    """
    low, high = (float(end) for end in (sampling.sigma_min, sampling.sigma_max))
    if _is_flow(sampling):
        low, high = (t / (1 - t) if t < 1 else FAR for t in (low, high))
    shape = known.event_shape if known else (4, 64, 64) if x is None else tuple(x.shape[1:])
    placed: dict[str, Any] = {} if x is None else {"dtype": torch.float32, "device": x.device}
    data_range = known.data_range if known else LATENT_RANGE
    return Denoiser(function or (lambda y, sigma: y), shape, low, high, data_range=data_range, **placed)


def _listed() -> list[str]:
    """The statistics that there are, by the names of their files."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))
    return [NONE, *(name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(SUFFIX))]


def _read(name: str) -> Statistics | None:
    return None if name == NONE else load_statistics(folder_paths.get_full_path_or_raise(FOLDER, name))


def _check_needs(sampler_name: str, known: Statistics | None, start: str = "noise") -> None:
    needing = sampler_name if sampler_name.startswith("p-") else None if start == "noise" else f"start {start}"
    if known is None and needing is not None:
        raise PrescoreError(f"statistics: {needing} needs those of the latents; measure them by prescore Calibrate")
