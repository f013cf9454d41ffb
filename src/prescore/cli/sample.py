"""`prescore sample`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prescore.errors import PrescoreError

if TYPE_CHECKING:
    from prescore import Denoiser, Progress, Sampler
    from prescore.cli.output import Output

PANEL = "Options of samplers (see `prescore samplers`)"


def sample(
    model: Annotated[str, typer.Argument(help="Name of a shipped model (mnist-ve), or a model file.")],
    out: Annotated[
        Path,
        typer.Option(help="NAME.png: one grid; NAME.npz: images, seeds, settings; else a folder, one PNG a sample."),
    ],
    sampler: Annotated[str, typer.Option(help="Which sampler; `prescore samplers` lists them.")] = "pc",
    steps: Annotated[int | None, typer.Option(help="Steps T, on the sampler's usual grid.")] = None,
    n: Annotated[int, typer.Option("--n", help="Number of samples.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; the next ones count up.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples in one network call.")] = 16,
    preconditioner: Annotated[
        str | None, typer.Option(help="Statistics from `prescore calibrate`; by default the shipped model's own.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Precondition, this weakly: 1 is strongest.", show_default="5 with pds")
    ] = None,
    pixel: Annotated[
        bool | None, typer.Option("--pixel/--no-pixel", help="Precondition pixels as well as frequencies.")
    ] = None,
    sigma_min: Annotated[float | None, typer.Option(help="Lowest noise level.", show_default="the model's")] = None,
    sigma_max: Annotated[float | None, typer.Option(help="Highest noise level.", show_default="the model's")] = None,
    device: Annotated[str | None, typer.Option(help="Where the network runs: cpu, cuda, ...")] = None,
    dtype: Annotated[
        str, typer.Option(help="Precision of the network: float64, float32, float16, bfloat16.")
    ] = "float32",
    predictor: Annotated[
        str | None,
        typer.Option(
            help="reverse-diffusion, ancestral, euler-maruyama, probability-flow or none.", rich_help_panel=PANEL
        ),
    ] = None,
    corrector: Annotated[str | None, typer.Option(help="langevin or none.", rich_help_panel=PANEL)] = None,
    corrector_steps: Annotated[int | None, typer.Option(help="Correctors a step.", rich_help_panel=PANEL)] = None,
    snr: Annotated[
        float | None, typer.Option(help="Signal-to-noise ratio r of the corrector.", rich_help_panel=PANEL)
    ] = None,
    first: Annotated[
        str | None, typer.Option(help="What acts first in a step: corrector or predictor.", rich_help_panel=PANEL)
    ] = None,
    form: Annotated[
        str | None, typer.Option(help="paper, or marginal (keeps every marginal).", rich_help_panel=PANEL)
    ] = None,
    norm: Annotated[
        str | None,
        typer.Option(help="Norms in the corrector's step: sample, or batch (averaged over it).", rich_help_panel=PANEL),
    ] = None,
    precondition_prior: Annotated[
        bool | None,
        typer.Option("--precondition-prior/--plain-prior", help="Start from M n or n.", rich_help_panel=PANEL),
    ] = None,
    level_steps: Annotated[int | None, typer.Option(help="Langevin steps a level.", rich_help_panel=PANEL)] = None,
    step_size: Annotated[
        float | None, typer.Option(help="Langevin step at the lowest level.", rich_help_panel=PANEL)
    ] = None,
    denoise: Annotated[
        bool | None, typer.Option("--denoise/--no-denoise", help="End by denoising.", rich_help_panel=PANEL)
    ] = None,
    prior: Annotated[str | None, typer.Option(help="uniform or gaussian.", rich_help_panel=PANEL)] = None,
) -> None:
    """Draw samples from a trained model.

    Sample k is a function of its seed alone, not of the batch size or of the others. A folder may be interrupted by
    Ctrl-C: finished samples stay, and the same command draws the others.
    """
    from prescore.cli.output import open_output
    from prescore.cli.plan import build_sampler, count_seeds, open_model, open_preconditioner, resolve

    options = {
        "predictor": predictor,
        "corrector": corrector,
        "corrector_steps": corrector_steps,
        "snr": snr,
        "first": first,
        "form": form,
        "norm": norm,
        "precondition_prior": precondition_prior,
        "level_steps": level_steps,
        "step_size": step_size,
        "denoise": denoise,
        "prior": prior,
    }
    seeds = count_seeds(seed, n)
    if batch_size < 1:
        raise PrescoreError(f"batch_size: {batch_size} is not positive")
    denoiser = open_model(model, device, dtype, sigma_min, sigma_max)
    M, made_from = open_preconditioner(model, sampler, preconditioner, alpha, pixel)
    method = build_sampler(sampler, steps, M, options)
    settings = resolve(model, denoiser, sampler, method, made_from)
    if settings.get("norm") == "batch":  # then a sample depends on its batch-mates
        settings |= {"seed": seed, "n": n, "batch_size": batch_size}
    output = open_output(out, seeds, settings, denoiser.event_shape)
    draw(denoiser, method, output, batch_size)


def draw(denoiser: "Denoiser", sampler: "Sampler", output: "Output", batch_size: int) -> None:
    """Draw what the output still misses, batch by batch, and say what it took."""
    import torch

    from prescore.cli.report import facts

    batches = split(output, batch_size)
    levels = sampler.levels(denoiser.sigma_min, denoiser.sigma_max)
    each = sampler.total_calls(len(levels) - 1, final_zero=levels[-1].item() == 0)
    calls = None if each is None else len(batches) * each
    seeds = f"{output.seeds[0]} to {output.seeds[-1]}"
    plan = {
        "seeds": seeds,
        "batch_size": batch_size,
        "device": denoiser.device,
        "calls": "as the tolerance needs" if calls is None else calls,
        "out": output.path,
    }
    print(facts(dict(output.settings) | plan), flush=True)
    start = time.perf_counter()
    try:
        made = _run(denoiser, sampler, output, batches, calls)
        output.finish()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(output.remains()) from None
    except torch.OutOfMemoryError:
        raise PrescoreError(f"batch_size: {batch_size} samples do not fit into memory; lower it") from None
    print(f"{made} network calls in {time.perf_counter() - start:.1f} s, written to {output.path}")


def split(output: "Output", size: int) -> list[list[int]]:
    """The missing seeds in batches; whole batches where a sample depends on its batch-mates."""
    missing = output.missing()
    seeds = output.seeds if output.settings.get("norm") == "batch" else missing
    batches = [seeds[k : k + size] for k in range(0, len(seeds), size)]
    return [batch for batch in batches if not set(missing).isdisjoint(batch)]


def _run(
    denoiser: "Denoiser", sampler: "Sampler", output: "Output", batches: list[list[int]], calls: int | None
) -> int:
    from tqdm import tqdm

    import prescore
    from prescore.images import to_uint8

    made = before = 0  # network calls so far; those of them in the current batch
    with tqdm(total=calls, unit="call", disable=None, leave=False) as bar:

        def count(progress: "Progress") -> None:
            nonlocal made, before
            new = progress.calls - (before if progress.step else 0)
            made, before = made + new, progress.calls
            bar.update(new)

        for seeds in batches:
            x = prescore.sample(denoiser, sampler, seeds=seeds, callback=count, progress=False)
            output.add(seeds, to_uint8(x, denoiser.data_range))
    return made
