"""Pipelines of Hugging Face diffusers as denoisers: their network, its condition, guidance, and the autoencoder.

What is sampled is what the network works on, latents as it sees them; `decode` makes pictures of them. What the network
predicts, and of what, the scheduler of the pipeline says (`prescore.checkpoints.diffusers_schedulers`).

    network                        its condition
    UNet2DConditionModel           prompt_embeds; of Stable Diffusion XL pooled_prompt_embeds and time_ids too
    SD3Transformer2DModel          prompt_embeds, pooled_prompt_embeds
    DiTTransformer2DModel          class_labels
    UNet2DModel                    class_labels, if it has classes

Source: diffusers 0.42, https://github.com/huggingface/diffusers (Apache 2.0): the `__call__` of each pipeline.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from prescore.adapters.diffusers.scheduler import PrescoreScheduler, said_by
from prescore.checkpoints.diffusers_schedulers import Meaning, scheduler_meaning
from prescore.denoiser import (
    Denoise,
    Denoiser,
    from_edm,
    from_flow,
    from_noise_prediction,
    from_score,
    from_velocity,
    from_x0,
    guided,
)
from prescore.errors import PrescoreError
from prescore.models.kl import LATENT_RANGE, KLAutoencoder, scale_and_shift
from prescore.statistics import Statistics, load_statistics

Rows = dict[str, Tensor]  # a condition, one row a sample, or one for all
Encode = Callable[[Any, Sequence[str], str | None, tuple[int, int]], tuple[Rows, Rows]]


@dataclass(frozen=True)
class Kind:
    """How a network is called: `call(network, x_t, time, rows)`, and of a text-conditional one, how the rows of prompts
    and those of none are made, `encode(pipe, prompts, negative prompt, (height, width) of the pictures)`."""

    call: Callable[[Any, Tensor, Tensor, Rows], Tensor]
    encode: Encode | None = None


@dataclass(frozen=True, eq=False)
class PipelineDenoiser(Denoiser):
    """The denoiser of a pipeline; `denoiser_of` makes one.

    Attributes:
        pipe: the pipeline, whose parts are used, not copied.
        sides: (height, width) of the pictures.
        encode_prompts: as a `Kind` has it, or None.
    """

    pipe: Any = field(kw_only=True)
    sides: tuple[int, int] = field(kw_only=True)
    encode_prompts: Encode | None = field(kw_only=True)

    @property
    def autoencoder(self) -> Any:
        """That of the pipeline, or None."""
        return _part(self.pipe, "vae", "vqvae")

    @property
    def picture_shape(self) -> tuple[int, ...]:
        return self.event_shape if self.autoencoder is None else (self.autoencoder.config.out_channels, *self.sides)

    @property
    def picture_range(self) -> tuple[float, float] | None:
        return self.data_range if self.autoencoder is None else (0.0, 1.0)

    def condition(self, prompts: Sequence[str], negative_prompt: str | None = None) -> Rows:
        """The condition of one sample for each prompt, as `prescore.draw` and others take it.

        Raises:
            PrescoreError: the pipeline takes no text.
        """
        if self.encode_prompts is None:
            raise PrescoreError(f"prompt: {type(self.pipe).__name__} takes no text")
        with torch.no_grad():
            return self.encode_prompts(self.pipe, list(prompts), negative_prompt, self.sides)[0]

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Pictures in [0, 1], (N, *picture_shape), of latents (N, *event_shape); without an autoencoder x itself."""
        vae = self.autoencoder
        if vae is None:
            return x
        scale, shift = scale_and_shift(vae.config, x)
        overflows = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
        if overflows:
            vae.float()
        try:
            parts = [vae.decode((part * scale + shift).to(vae.dtype)).sample for part in x.split(KLAutoencoder.at_once)]
        finally:
            if overflows:
                vae.half()
        return (torch.cat(parts).to(x.dtype) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents (N, *event_shape), in float32, of pictures in [0, 1], (N, *picture_shape): the means of their
        posteriors; without an autoencoder the pictures themselves."""
        vae = self.autoencoder
        if vae is None:
            return pictures
        parts = [vae.encode((part * 2 - 1).to(vae.device, vae.dtype)) for part in pictures.split(KLAutoencoder.at_once)]
        z = torch.cat([part.latent_dist.mode() if hasattr(part, "latent_dist") else part.latents for part in parts])
        scale, shift = scale_and_shift(vae.config, z := z.float())
        return (z - shift) / scale


def denoiser_of(
    pipe: Any,
    prompt: str | None = None,
    *,
    negative_prompt: str | None = None,
    class_label: int | None = None,
    guidance: float | None = None,
    height: int | None = None,
    width: int | None = None,
    statistics: Statistics | str | Path | None = None,
    data_range: tuple[float, float] | None = None,
) -> PipelineDenoiser:
    """A pipeline as a denoiser, to be calibrated, planned, compared and drawn from like any other, at any batch.

    Args:
        pipe: of Stable Diffusion, Stable Diffusion XL or 3, DiT, or an unconditional one, such as DDPMPipeline.
        prompt, negative_prompt: text for all samples. For one prompt a sample give none here, and the call
            `condition=model.condition(prompts)`.
        class_label: class of all samples. For one class a sample give none here, and the call
            `condition={"class_labels": tensor}`.
        guidance: weight of classifier-free guidance, by default that of the pipeline; 1 is without.
        height, width: of the pictures, by default those that the network was trained on.
        statistics: of the latents, or the path of their file, for all that is drawn; by default those of the pipeline's
            scheduler, if it is one of `scheduler`.
        data_range: interval of the latents; by default that of the statistics, else (-4, 4), four deviations of latents
            that are scaled to deviation 1, or without an autoencoder that of the pictures.

    Raises:
        PrescoreError: the network, or what it predicts, is of another kind, it takes no text or no classes, or it has
            no answer without a condition, which guidance needs.
    """
    network = _part(pipe, "transformer", "unet")
    kind = _kind_of(network, pipe)
    said = said_by(pipe.scheduler)
    embedding = {"time_embedding_type": network.config.get("time_embedding_type", "positional")}
    meaning = scheduler_meaning(said, embedding)
    channels, vae = network.config.in_channels, _part(pipe, "vae", "vqvae")
    if network.config.get("out_channels", channels) not in (channels, 2 * channels):
        raise PrescoreError(f"pipe: its {type(network).__name__} takes more than a noisy sample, such as a mask")
    shape, sides = _sizes(network, vae, height, width)
    if isinstance(pipe.scheduler, PrescoreScheduler) and statistics is None:
        statistics = pipe.scheduler.statistics
    known = load_statistics(statistics) if isinstance(statistics, str | Path) else statistics
    given = data_range or (known.data_range if known else meaning.data_range if vae is None else LATENT_RANGE)
    own, none = _conditions(pipe, network, kind, sides, prompt, negative_prompt, class_label)
    device = pipe._execution_device

    def predict(x_t: Tensor, time: Tensor, **rows: Tensor) -> Tensor:
        held = {name: row.to(device).expand(len(x_t), *row.shape[1:]) for name, row in {**own, **rows}.items()}
        answer = kind.call(network, x_t.to(network.dtype), time, held)[:, :channels]
        return -answer if meaning.negated else answer

    function, calls = _converted(predict, meaning), 1
    weight = _usual_guidance(pipe) if guidance is None and none else guidance
    if weight is not None and weight != 1:
        if not none:
            raise PrescoreError(f"guidance: {type(pipe).__name__} has no answer without a condition, which it needs")
        function, calls = guided(function, weight, none), 2
    return PipelineDenoiser(
        function,
        (channels, *shape),
        max(meaning.sigma_min, getattr(function, "sigma_min", None) or 0),
        meaning.sigma_max,
        data_range=given,
        device=device,
        name=str(getattr(pipe, "name_or_path", "") or type(pipe).__name__),
        network_calls=calls,
        statistics=known,
        pipe=pipe,
        sides=sides,
        encode_prompts=kind.encode,
    )


def _converted(predict: Denoise, meaning: Meaning) -> Denoise:
    arguments = dict(meaning.arguments)
    if meaning.preconditioning == "flow":
        return from_flow(predict, **arguments)
    if meaning.preconditioning == "edm":
        return from_edm(predict, **arguments)
    if meaning.preconditioning == "score":
        return from_score(predict)
    arguments["schedule"] = meaning.schedule
    return {"noise": from_noise_prediction, "velocity": from_velocity, "sample": from_x0}[meaning.preconditioning](
        predict, **arguments
    )


def _encode_sd(pipe: Any, prompts: Sequence[str], negative: str | None, sides: tuple[int, int]) -> tuple[Rows, Rows]:
    without = None if negative is None else [negative] * len(prompts)
    own, none = pipe.encode_prompt(prompts, pipe._execution_device, 1, True, without)
    return {"prompt_embeds": own}, {"prompt_embeds": none[:1]}


def _encode_pooled(
    pipe: Any, prompts: Sequence[str], negative: str | None, sides: tuple[int, int]
) -> tuple[Rows, Rows]:
    without = None if negative is None else [negative] * len(prompts)
    others = {f"prompt_{i}": None for i in (2, 3)}.keys() & inspect.signature(pipe.encode_prompt).parameters.keys()
    own, none, pooled, none_pooled = pipe.encode_prompt(
        prompt=prompts,
        negative_prompt=without,
        do_classifier_free_guidance=True,
        device=pipe._execution_device,
        **dict.fromkeys(others),
    )
    rows = {"prompt_embeds": own, "pooled_prompt_embeds": pooled}
    return rows, {"prompt_embeds": none[:1], "pooled_prompt_embeds": none_pooled[:1]}


def _encode_xl(pipe: Any, prompts: Sequence[str], negative: str | None, sides: tuple[int, int]) -> tuple[Rows, Rows]:
    own, none = _encode_pooled(pipe, prompts, negative, sides)
    pooled = own["pooled_prompt_embeds"]
    times = pipe._get_add_time_ids(sides, (0, 0), sides, pooled.dtype, text_encoder_projection_dim=pooled.shape[-1])
    times = times.to(pooled.device)
    return {**own, "time_ids": times.expand(len(pooled), -1)}, {**none, "time_ids": times}


def _call_sd(network: Any, x: Tensor, time: Tensor, rows: Rows) -> Tensor:
    return network(x, time, encoder_hidden_states=_of(rows, "prompt_embeds")).sample


def _call_xl(network: Any, x: Tensor, time: Tensor, rows: Rows) -> Tensor:
    added = {"text_embeds": _of(rows, "pooled_prompt_embeds"), "time_ids": _of(rows, "time_ids")}
    return network(x, time, encoder_hidden_states=_of(rows, "prompt_embeds"), added_cond_kwargs=added).sample


def _call_sd3(network: Any, x: Tensor, time: Tensor, rows: Rows) -> Tensor:
    texts = {"encoder_hidden_states": "prompt_embeds", "pooled_projections": "pooled_prompt_embeds"}
    return network(
        hidden_states=x, timestep=time, **{argument: _of(rows, name) for argument, name in texts.items()}
    ).sample


def _call_dit(network: Any, x: Tensor, time: Tensor, rows: Rows) -> Tensor:
    return network(x, timestep=time, class_labels=_of(rows, "class_labels")).sample


def _call_unconditional(network: Any, x: Tensor, time: Tensor, rows: Rows) -> Tensor:
    labels = {"class_labels": _of(rows, "class_labels")} if network.config.num_class_embeds else {}
    return network(x, time, **labels).sample


def _of(rows: Rows, name: str) -> Tensor:
    if name not in rows:
        option = "class_label" if name == "class_labels" else "prompt"
        raise PrescoreError(f"{option}: is missing; give it to denoiser_of, or {name!r} in the condition of the call")
    return rows[name]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "UNet2DConditionModel": Kind(_call_sd, _encode_sd),
        "SD3Transformer2DModel": Kind(_call_sd3, _encode_pooled),
        "DiTTransformer2DModel": Kind(_call_dit),
        "UNet2DModel": Kind(_call_unconditional),
    }
)
XL = Kind(_call_xl, _encode_xl)


def _kind_of(network: Any, pipe: Any) -> Kind:
    name, config = type(network).__name__, getattr(network, "config", {})
    if name not in KINDS:
        raise PrescoreError(f"pipe: the network of {type(pipe).__name__} is a {name}; known are {', '.join(KINDS)}")
    if config.get("time_cond_proj_dim") is not None:
        raise PrescoreError(
            f"pipe: its {name} was distilled and takes the guidance as an input, which is not known here"
        )
    return XL if config.get("addition_embed_type") == "text_time" else KINDS[name]


def _conditions(
    pipe: Any,
    network: Any,
    kind: Kind,
    sides: tuple[int, int],
    prompt: str | None,
    negative: str | None,
    label: int | None,
) -> tuple[Rows, Rows]:
    """The rows of what all samples share, and those of no condition; empty where there are none."""
    count = network.config.get("num_embeds_ada_norm") or network.config.get("num_class_embeds") or 0
    if prompt is not None and not isinstance(prompt, str):
        raise PrescoreError(
            "prompt: one text is needed; for one a sample leave it out, and give the call "
            "condition=model.condition(prompts)"
        )
    if kind.encode is None:
        if prompt is not None or negative is not None:
            raise PrescoreError(f"prompt: {type(pipe).__name__} takes no text")
        if label is not None and not 0 <= label < count:
            has = f"has the classes 0 to {count - 1}" if count else "has no classes"
            raise PrescoreError(f"class_label: {label} given; {type(pipe).__name__} {has}")
        own = {} if label is None else {"class_labels": torch.tensor([label])}
        return own, {"class_labels": torch.tensor([count])} if kind.call is _call_dit else {}
    if label is not None:
        raise PrescoreError(f"class_label: {type(pipe).__name__} has no classes")
    with torch.no_grad():
        own, none = kind.encode(pipe, [prompt or ""], negative, sides)
    return own if prompt is not None else {}, none


def _usual_guidance(pipe: Any) -> float | None:
    """That with which the pipeline is called if nothing is said."""
    parameter = inspect.signature(type(pipe).__call__).parameters.get("guidance_scale")
    return None if parameter is None else max(1.0, parameter.default)


def _sizes(network: Any, vae: Any, height: int | None, width: int | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of the latents, and of the pictures."""
    scale = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    size = network.config.sample_size
    if size is None and (height is None or width is None):
        raise PrescoreError("height, width: the network does not know the size of its pictures; give both")
    own = size if isinstance(size, list | tuple) else [size, size]
    sides = [given or scale * (side or 0) for given, side in zip((height, width), own, strict=True)]
    for name, side in zip(("height", "width"), sides, strict=True):
        if side % scale or side <= 0:
            raise PrescoreError(
                f"{name}: {side} is not a multiple of {scale}, by which the autoencoder shrinks pictures"
            )
    return (sides[0] // scale, sides[1] // scale), (sides[0], sides[1])


def _part(pipe: Any, *names: str) -> Any:
    """The first of these parts that the pipeline has, or None."""
    return next((part for name in names if (part := getattr(pipe, name, None)) is not None), None)
