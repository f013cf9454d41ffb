"""`prescore sample`."""

import io
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
STATE_BYTES = 2 * 4  # for each number of a trajectory, which is kept and then written

if TYPE_CHECKING:
    from torch import Tensor

    from prescore import Plan
    from prescore.cli.output import Output
    from prescore.cli.plan import ChosenClasses
    from prescore.samplers import Progress


def sample(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Option(help="NAME.png: one grid; NAME.npz: images, seeds, settings; else a folder, one PNG a sample."),
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
            help="With --pixel: what scales pixels: log, square, mean, or the authors' mask, FILE.npy.",
            show_default="log, as in the paper",
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
    subspace: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Subspace diffusion: a model of the means of blocks of pixels, called at the noise above --switch.",
        ),
    ] = None,
    subspace_config: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The --config of --subspace, where it has not the model's.")
    ] = None,
    switch: Annotated[
        float | None,
        typer.Option(
            help="Noise level of --subspace.", show_default="4 standard deviations of the detail, by the statistics"
        ),
    ] = None,
    class_: Class = None,
    guidance: Guidance = None,
    as_numbers: Annotated[
        bool, typer.Option("--float", help="Write an .npz of float32 in the units of the data, instead of bytes.")
    ] = False,
    trajectory: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npy",
            help="Write the state after each step too, float32 (T, n, ...) in the model's own coordinates.",
        ),
    ] = None,
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
    how: dict[str, Any] = {
        "weights": which_weights(raw),
        "device": device,
        "dtype": dtype,
        "channels_last": channels_last,
        "compile": compile,
        "guidance": guidance,
    }
    if subspace_config is not None and subspace is None:
        raise PrescoreError("subspace_config: belongs to subspace")
    opened = open_model(model, config=config, **how)
    coarse = None if subspace is None else open_model(subspace, config=subspace_config, **how)
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
        subspace=None if coarse is None else coarse.denoiser,
        switch=switch,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        **{"alpha": parse_alpha(alpha), **context.obj},
    )
    settings = settings_of(opened, decided, chosen)
    if coarse is not None:
        settings |= {"subspace_sha256": coarse.settings["model_sha256"], "subspace_config": subspace_config}
    if settings.get("norm") == "batch":  # then a sample depends on its batch-mates
        settings |= {"seed": seed, "n": n, "batch_size": batch_size}
    output = open_output(out, seeds, settings, opened.denoiser.picture_shape, as_numbers=as_numbers)
    if not isinstance(output, Folder):  # which writes each batch as it comes
        check_size("n", n, 2 * (4 if as_numbers else 1) * math.prod(opened.denoiser.picture_shape))
    states = None if trajectory is None else Trajectory(trajectory, decided, output)
    draw(decided, output, batch_size, chosen, states)


def draw(
    plan: "Plan",
    output: "Output",
    batch_size: int,
    chosen: "ChosenClasses | None" = None,
    trajectory: "Trajectory | None" = None,
) -> None:
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
        made = _run(plan, output, batches, batch_size, calls, chosen, trajectory)
        output.finish()
        if trajectory is not None:
            trajectory.finish()
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


class Trajectory:
    """The states of all samples after each step, as a callback of `prescore.sample`, to be written at the end.

    Args:
        path: of an .npy file.
        plan: what is drawn.
        output: where its samples go, which has none of them yet.

    Raises:
        PrescoreError: the file cannot be written, or the states do not fit into memory.
    """

    def __init__(self, path: Path, plan: "Plan", output: "Output") -> None:
        import torch

        from prescore.files import check_writable
        from prescore.limits import check_size

        if path.suffix.lower() != ".npy":
            raise PrescoreError(f"--trajectory: {path} given; an .npy file is written")
        if output.missing() != output.seeds:
            raise PrescoreError(f"--trajectory: {output.path} holds samples, which are not drawn again; choose another")
        check_writable(path)
        n, shape = len(output.seeds), plan.denoiser.event_shape
        check_size("trajectory", plan.steps * n, STATE_BYTES * math.prod(shape))
        self.path, self.rows = path, {seed: row for row, seed in enumerate(output.seeds)}
        self.states = torch.empty(plan.steps, n, *shape)

    def __call__(self, progress: "Progress") -> None:
        self.states[progress.step, [self.rows[seed] for seed in progress.seeds]] = progress.x.float().cpu()

    def finish(self) -> None:
        import numpy as np

        from prescore.files import write_atomically

        buffer = io.BytesIO()
        np.save(buffer, self.states.numpy())
        write_atomically(self.path, buffer.getvalue())


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
    callback: "Callable[[Progress], None] | None",
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
            x = counting.sample(seeds, batch_size=size, condition=condition, callback=callback, progress=False)
            pictures = denoiser.decode(fill(x, size))[: len(seeds)]
            numbers = pictures.cpu().float() if output.as_numbers else to_uint8(pictures, denoiser.picture_range)
            new = [k for k, seed in enumerate(seeds) if seed in missing]
            output.add([seeds[k] for k in new], numbers[new])
    return made
