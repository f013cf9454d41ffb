"""`prescore sample`."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prescore.cli.options import DEFAULT_SAMPLER
from prescore.cli.shared import (
    OPENING,
    Class,
    Config,
    Device,
    Dtype,
    Guidance,
    Model,
    Raw,
    Seed,
    StatisticsFile,
    which_weights,
)
from prescore.errors import PrescoreError

USUAL_BATCH = 16

if TYPE_CHECKING:
    from torch import Tensor

    from prescore import Plan
    from prescore.cli.output import Output
    from prescore.cli.plan import ChosenClasses


def sample(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            help="NAME.png: one grid; NAME.npz: samples of any shape, seeds, settings; else a folder, one PNG a sample."
        ),
    ],
    sampler: Annotated[
        str,
        typer.Option(
            help="Which sampler; `prescore samplers` lists them, `prescore samplers NAME` its options. auto chooses by "
            "the number of calls and the statistics.",
        ),
    ] = DEFAULT_SAMPLER,
    preset: Annotated[
        str | None,
        typer.Option(help="The settings of a paper's table, which other options override; see `prescore presets`."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps T, on the sampler's usual grid.", show_default="the sampler's")
    ] = None,
    calls: Annotated[
        int | None,
        typer.Option(
            help="Instead of --steps: as many as take at most this many network calls a sample.",
            show_default="10 with auto",
        ),
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
    seed: Seed = 0,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Samples in every network call; the last batch is filled up to it.",
            show_default=f"{USUAL_BATCH}, or --n if that is less",
        ),
    ] = None,
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
    pixel_alpha: Annotated[
        float | None, typer.Option(help="With --pixel: alpha of the pixels.", show_default="that of the frequencies")
    ] = None,
    pixel_mask: Annotated[
        str | None,
        typer.Option(
            help="With --pixel: what scales pixels: log, square or mean.", show_default="log, as in the paper"
        ),
    ] = None,
    alpha_relation: Annotated[
        str | None,
        typer.Option(
            metavar="T1=A1,T2=A2", help="Predict alpha from those that were measured at some numbers of steps."
        ),
    ] = None,
    radial: Annotated[
        str | None,
        typer.Option(
            metavar="R,LAMBDA",
            help="Precondition by the papers' mask for NCSN: a disc of R times the height; 0.2,1.6.",
        ),
    ] = None,
    skew: Annotated[str | None, typer.Option(help="A skew-symmetric term of Langevin dynamics: S1, S2, S3.")] = None,
    omega: Annotated[float | None, typer.Option(help="Weight of --skew.")] = None,
    basis: Annotated[
        str | None,
        typer.Option(
            help="In which the sampler's reference Gaussian is diagonal: cosine, frequency, pixel, pca, covariance.",
            show_default="cosine; covariance of vectors",
        ),
    ] = None,
    class_: Class = None,
    guidance: Guidance = None,
    as_numbers: Annotated[
        bool, typer.Option("--float", help="Write an .npz of float32 in the units of the data, instead of bytes.")
    ] = False,
    config: Config = None,
    raw: Raw = False,
    device: Device = None,
    dtype: Dtype = "float32",
    channels_last: Annotated[
        bool,
        typer.Option(
            "--channels-last",
            help="Keep channels last in memory: for half precision on a GPU.",
            rich_help_panel=OPENING,
        ),
    ] = False,
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the network first: half a minute, then faster calls, for long runs.",
            rich_help_panel=OPENING,
        ),
    ] = False,
) -> None:
    """Draw samples from a trained model.

    Every option of the sampler may be given beside those below: `prescore samplers NAME` explains them.

    Sample k is a function of its seed alone, not of the others; of the batch size only by how the network rounds. A
    folder may be interrupted by Ctrl-C: finished samples stay, and the same command draws the others, bit for bit.
    """
    from prescore.cli.output import Folder, open_output
    from prescore.cli.plan import (
        choose_classes,
        count_seeds,
        open_model,
        parse_alpha,
        parse_grid,
        parse_pairs,
        parse_radial,
        settings_of,
    )
    from prescore.limits import check_size
    from prescore.plan import plan

    seeds = count_seeds(seed, n)
    batch_size = min(USUAL_BATCH, n) if batch_size is None else batch_size
    if batch_size < 1:
        raise PrescoreError(f"batch_size: {batch_size} is not positive")
    opened = open_model(
        model,
        config=config,
        weights=which_weights(raw),
        device=device,
        dtype=dtype,
        channels_last=channels_last,
        compile=compile,
        guidance=guidance,
    )
    chosen = choose_classes(opened.description, class_, guidance)
    decided = plan(
        opened.denoiser,
        preset=preset,
        sampler=sampler,
        calls=calls,
        steps=steps,
        grid=parse_grid(grid),
        rho=rho,
        statistics=statistics,
        basis=basis,
        pixel=pixel,
        pixel_alpha=pixel_alpha,
        pixel_mask=pixel_mask,
        alpha_relation=parse_pairs(alpha_relation),
        radial=parse_radial(radial),
        skew=skew,
        omega=omega,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        **{"alpha": parse_alpha(alpha), **context.obj},
    )
    settings = settings_of(opened, decided, chosen)
    if settings.get("norm") == "batch":  # then a sample depends on its batch-mates
        settings |= {"seed": seed, "n": n, "batch_size": batch_size}
    as_numbers = as_numbers or (decided.picture_range is None and out.suffix.lower() == ".npz")
    output = open_output(out, seeds, settings, opened.denoiser.picture_shape, as_numbers=as_numbers)
    if decided.picture_range is None and not output.as_numbers:
        raise PrescoreError("model: it knows no range of values, by which pictures are scaled; write an .npz file")
    if not isinstance(output, Folder):  # which writes each batch as it comes
        check_size("n", n, 2 * (4 if output.as_numbers else 1) * math.prod(opened.denoiser.picture_shape))
    draw(decided, output, batch_size, chosen)


def draw(plan: "Plan", output: "Output", batch_size: int, chosen: "ChosenClasses | None" = None) -> None:
    """Draw what the output still misses, batch by batch, and say what it took."""
    from prescore.cli.report import calls_text, facts, show
    from prescore.limits import is_exhausted

    batches = split(output, batch_size)
    calls = None if plan.calls is None else len(batches) * plan.calls
    seeds = f"{output.seeds[0]} to {output.seeds[-1]}"
    how = {
        "noise levels": plan.shown_levels,
        "seeds": seeds,
        "batch_size": batch_size,
        "device": plan.denoiser.device,
        "calls": "as many as the tolerance needs" if calls is None else calls,
        "out": output.path,
    }
    print(facts(dict(output.settings) | how), flush=True)
    start = time.perf_counter()
    try:
        made = _run(plan, output, batches, batch_size, calls, chosen)
        output.finish()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(output.remains()) from None
    except PrescoreError:
        raise
    except Exception as error:
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = str(error).strip().partition("\n")[0]
            raise PrescoreError(f"--compile: the network cannot be compiled here ({reason}); leave it out") from None
        if is_exhausted(error):
            raise PrescoreError(f"batch_size: {batch_size} samples do not fit into memory; lower it") from None
        raise
    print(f"{calls_text(made, 'network ')} in {time.perf_counter() - start:.1f} s, written to {show(output.path)}")


def split(output: "Output", size: int) -> list[list[int]]:
    """The seeds in batches, those of which a sample is missing: whole, as a run that nothing interrupts has them."""
    missing = set(output.missing())
    batches = [output.seeds[k : k + size] for k in range(0, len(output.seeds), size)]
    return [batch for batch in batches if not missing.isdisjoint(batch)]


def _run(
    plan: "Plan",
    output: "Output",
    batches: list[list[int]],
    size: int,
    calls: int | None,
    chosen: "ChosenClasses | None",
) -> int:
    from tqdm import tqdm

    from prescore.images import to_uint8
    from prescore.samplers.base import fill

    with tqdm(total=calls, unit="call", disable=None, leave=False) as bar:
        denoiser, made, missing = plan.denoiser, 0, set(output.missing())

        def counted(x: "Tensor", sigma: "Tensor", **condition: "Tensor") -> "Tensor":
            nonlocal made
            made += denoiser.network_calls
            bar.update(denoiser.network_calls)
            return denoiser(x, sigma, **condition)

        counting = replace(plan, denoiser=replace(denoiser, function=counted))
        for seeds in batches:
            condition = chosen.condition(seeds) if chosen else None
            x = counting.sample(seeds, batch_size=size, condition=condition, progress=False)
            pictures = denoiser.decode(fill(x, size))[: len(seeds)]
            numbers = pictures.cpu().float() if output.as_numbers else to_uint8(pictures, plan.picture_range)
            new = [k for k, seed in enumerate(seeds) if seed in missing]
            output.add([seeds[k] for k in new], numbers[new])
    return made
