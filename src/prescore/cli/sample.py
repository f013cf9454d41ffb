"""`prescore sample`."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prescore.cli.opening import PANEL, Class, Config, Raw, StatisticsFile, kind
from prescore.cli.options import DEFAULT_SAMPLER
from prescore.errors import PrescoreError

if TYPE_CHECKING:
    from torch import Tensor

    from prescore import Denoiser, Sampler
    from prescore.cli.output import Output
    from prescore.cli.plan import ChosenClasses


def sample(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of a shipped model (mnist-ve), or a model file.")],
    out: Annotated[
        Path,
        typer.Option(help="NAME.png: one grid; NAME.npz: images, seeds, settings; else a folder, one PNG a sample."),
    ],
    sampler: Annotated[
        str,
        typer.Option(
            help="Which sampler; `prescore samplers` lists them, `prescore samplers NAME` its options. auto chooses by "
            "--calls and the statistics.",
        ),
    ] = DEFAULT_SAMPLER,
    steps: Annotated[
        int | None, typer.Option(help="Steps T, on the sampler's usual grid.", show_default="the sampler's")
    ] = None,
    calls: Annotated[
        int | None, typer.Option(help="Instead of --steps: as many as take at most this many network calls a sample.")
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Spread the noise levels otherwise: auto (what `prescore calibrate --model` measured), karras, "
            "geometric, uniform-t, iddpm; or list them: 50,10,2,0.5,0.",
            show_default="the sampler's",
        ),
    ] = None,
    rho: Annotated[float | None, typer.Option(help="Exponent of --grid karras.", show_default="7")] = None,
    sigma_min: Annotated[float | None, typer.Option(help="Lowest noise level.", show_default="the model's")] = None,
    sigma_max: Annotated[float | None, typer.Option(help="Highest noise level.", show_default="the model's")] = None,
    n: Annotated[int, typer.Option("--n", help="Number of samples.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the first sample; the next ones count up.")] = 0,
    batch_size: Annotated[int, typer.Option(help="Samples in one network call.")] = 16,
    statistics: StatisticsFile = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            help="Precondition, this weakly: 1 is strongest; auto chooses from the statistics.",
            show_default="auto with pds",
        ),
    ] = None,
    pixel: Annotated[
        bool | None, typer.Option("--pixel/--no-pixel", help="Precondition pixels as well as frequencies.")
    ] = None,
    basis: Annotated[
        str | None,
        typer.Option(
            help="In which the sampler's reference Gaussian is diagonal: cosine, frequency, pixel or pca.",
            show_default="cosine",
        ),
    ] = None,
    class_: Class = None,
    as_numbers: Annotated[
        bool, typer.Option("--float", help="Write an .npz of float32 in the units of the data, instead of bytes.")
    ] = False,
    config: Config = None,
    raw: Raw = False,
    device: Annotated[
        str | None, typer.Option(help="Where the network runs: cpu, cuda, ...", rich_help_panel=PANEL)
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(help="Precision of the network: float64, float32, float16, bfloat16.", rich_help_panel=PANEL),
    ] = "float32",
    channels_last: Annotated[
        bool,
        typer.Option(
            "--channels-last", help="Keep channels last in memory: for half precision on a GPU.", rich_help_panel=PANEL
        ),
    ] = False,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the network first: half a minute, then faster calls, for long runs.",
            rich_help_panel=PANEL,
        ),
    ] = False,
) -> None:
    """Draw samples from a trained model.

    Every option of the sampler may be given beside those below: `prescore samplers NAME` explains them.

    Sample k is a function of its seed alone, not of the batch size or of the others. A folder may be interrupted by
    Ctrl-C: finished samples stay, and the same command draws the others.
    """
    from prescore.cli.output import open_output
    from prescore.cli.plan import (
        AUTO,
        choose_classes,
        choose_grid,
        chosen_sampler,
        count_seeds,
        measured_grid,
        open_model,
        open_statistics,
        refuse_idle,
        resolve,
    )
    from prescore.operators import Identity
    from prescore.precondition import Preconditioner
    from prescore.samplers import make_sampler, steps_for_calls

    seeds = count_seeds(seed, n)
    if batch_size < 1:
        raise PrescoreError(f"batch_size: {batch_size} is not positive")
    description, denoiser = open_model(
        model,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        config=config,
        weights=kind(raw),
        device=device,
        dtype=dtype,
        channels_last=channels_last,
        compile=compile,
    )
    chosen = choose_classes(description, class_)
    is_narrowed = (sigma_min, sigma_max) != (None, None)
    if calls is not None and (steps is not None or (grid is not None and "," in grid)):
        raise PrescoreError("--calls: gives the number of steps, as --steps or a list of noise levels would")
    why: dict[str, object] = {}
    if sampler == AUTO:
        sampler, has_grid, why = chosen_sampler(model, denoiser, statistics, calls)
        grid = AUTO if grid is None and has_grid else grid

    def plain() -> "Sampler":
        unpreconditioned = Preconditioner(Identity())
        method = make_sampler(sampler, steps=steps, preconditioner=unpreconditioned, **context.obj)
        if calls is not None:
            method = replace(method, steps=steps_for_calls(method, calls))
        return choose_grid(method, denoiser, grid, rho, is_narrowed, measured)[0]

    measured = partial(measured_grid, model, denoiser, sampler, statistics)
    for_grid = grid == AUTO or bool(why)
    made, made_from = open_statistics(model, denoiser, sampler, statistics, alpha, pixel, basis, plain, for_grid)
    if calls is not None:
        steps = steps_for_calls(make_sampler(sampler, **made, **context.obj), calls)
    method = make_sampler(sampler, steps=steps, **made, **context.obj)
    method, spread = choose_grid(method, denoiser, grid, rho, is_narrowed, measured)
    refuse_idle(sampler, method, method.levels(denoiser.sigma_min, denoiser.sigma_max), context.obj)
    opened: dict[str, object] = {"model_weights": description.weights, "dtype": dtype}
    opened |= {"config": config} if config else {}
    opened |= {"class": chosen.indices} if chosen else {}
    settings = resolve(model, denoiser, sampler, method, opened | why | spread | made_from)
    if settings.get("norm") == "batch":  # then a sample depends on its batch-mates
        settings |= {"seed": seed, "n": n, "batch_size": batch_size}
    output = open_output(out, seeds, settings, denoiser.picture_shape, as_numbers=as_numbers)
    draw(denoiser, method, output, batch_size, chosen)


def draw(
    denoiser: "Denoiser", sampler: "Sampler", output: "Output", batch_size: int, chosen: "ChosenClasses | None" = None
) -> None:
    """Draw what the output still misses, batch by batch, and say what it took."""
    import torch

    from prescore.cli.report import calls_text, facts

    batches = split(output, batch_size)
    levels = sampler.levels(denoiser.sigma_min, denoiser.sigma_max)
    each = sampler.total_calls(len(levels) - 1, final_zero=levels[-1].item() == 0)
    calls = None if each is None else len(batches) * each
    seeds = f"{output.seeds[0]} to {output.seeds[-1]}"
    plan = {
        "seeds": seeds,
        "batch_size": batch_size,
        "device": denoiser.device,
        "calls": "as many as the tolerance needs" if calls is None else calls,
        "out": output.path,
    }
    print(facts(dict(output.settings) | plan), flush=True)
    start = time.perf_counter()
    try:
        made = _run(denoiser, sampler, output, batches, calls, chosen)
        output.finish()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(output.remains()) from None
    except torch.OutOfMemoryError:
        raise PrescoreError(f"batch_size: {batch_size} samples do not fit into memory; lower it") from None
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise PrescoreError(f"--compile: the network cannot be compiled here ({reason}); leave it out") from None
    print(f"{calls_text(made, 'network ')} in {time.perf_counter() - start:.1f} s, written to {output.path}")


def split(output: "Output", size: int) -> list[list[int]]:
    """The missing seeds in batches; whole batches where a sample depends on its batch-mates."""
    missing = output.missing()
    seeds = output.seeds if output.settings.get("norm") == "batch" else missing
    batches = [seeds[k : k + size] for k in range(0, len(seeds), size)]
    return [batch for batch in batches if not set(missing).isdisjoint(batch)]


def _run(
    denoiser: "Denoiser",
    sampler: "Sampler",
    output: "Output",
    batches: list[list[int]],
    calls: int | None,
    chosen: "ChosenClasses | None",
) -> int:
    from tqdm import tqdm

    import prescore
    from prescore.images import to_uint8

    with tqdm(total=calls, unit="call", disable=None, leave=False) as bar:
        made = 0

        def counted(x: "Tensor", sigma: "Tensor", **condition: "Tensor") -> "Tensor":
            nonlocal made
            made += 1
            bar.update()
            return denoiser(x, sigma, **condition)

        model = replace(denoiser, function=counted)
        for seeds in batches:
            condition = chosen.condition(seeds) if chosen else None
            x = prescore.sample(model, sampler, seeds=seeds, condition=condition, progress=False)
            pictures = denoiser.decode(x)
            numbers = pictures.cpu().float() if output.as_numbers else to_uint8(pictures, denoiser.picture_range)
            output.add(seeds, numbers)
    return made
