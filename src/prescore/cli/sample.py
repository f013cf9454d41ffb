"""`prescore sample`."""

import re
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
    Start,
    StatisticsFile,
    which_weights,
)
from prescore.errors import PrescoreError

MANY = "Many samples"

if TYPE_CHECKING:
    from prescore.output import Output


def sample(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            help="NAME.png: one grid; NAME.npz: samples of any shape, seeds, settings; else a folder, one PNG a sample "
            "or --shard-size."
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
    n: Annotated[int | None, typer.Option("--n", "--samples", help="Number of samples.", show_default="16")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the first sample; the next ones count up.", show_default="0")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="A-B,C", help="Instead of --n and --seed: the seeds, one by one and in ranges: 0-99,200."),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            metavar="INT|auto",
            help="Samples in every network call; the last batch is filled up to it. auto: the size beyond which calls "
            "are no faster for each sample, or do not fit into memory.",
            show_default="16, or --n if that is less",
        ),
    ] = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            help="Of a folder: shards, each for this many seeds, instead of one PNG a sample.", rich_help_panel=MANY
        ),
    ] = None,
    shard_format: Annotated[
        str | None,
        typer.Option(
            metavar="npz|webdataset",
            help="Of the shards: .npz files, or tars in the layout of WebDataset, SEED.png (or .npy) and SEED.json.",
            show_default="npz",
            rich_help_panel=MANY,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="K/N|slurm",
            help="Draw only the K-th of N equal shares into a folder that other runs complete; slurm: that of this "
            "task of an array.",
            rich_help_panel=MANY,
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
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="range|dynamic",
            help="Bring the model's predictions into the range of the data: cut off, or by dynamic thresholding.",
        ),
    ] = None,
    start: Start = None,
    class_: Class = None,
    guidance: Guidance = None,
    as_numbers: Annotated[
        bool,
        typer.Option("--float", help="Write .npz files of float32 in the units of the data, instead of bytes."),
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
    folder may be interrupted by Ctrl-C: finished samples stay, and the same command draws the others, bit for bit if
    the batch size is the same, which it need not be with auto, or where --n goes beyond the 16 of a batch.

    On several GPUs or machines, each process with a share of the samples, files as those of one process:
    torchrun --nproc-per-node 8 -m prescore sample MODEL --samples 50000 --shard-size 1000 --device cuda --out DIR
    """
    from prescore.cli.plan import (
        choose_classes,
        open_model,
        parse_alpha,
        parse_grid,
        parse_pairs,
        parse_radial,
        parse_seeds,
        settings_of,
        text_of,
    )
    from prescore.cli.report import calls_text, facts, show
    from prescore.output.drawing import PATIENCE, write_samples
    from prescore.plan import plan
    from prescore.processes import processes_on

    numbers = parse_seeds(seeds, seed, n)
    size = int(batch_size) if batch_size is not None and re.fullmatch(r"-?\d{1,18}", batch_size) else batch_size
    with processes_on(device or "cpu", PATIENCE) as processes:
        how_opened: dict[str, Any] = {"weights": which_weights(raw), "dtype": dtype, "guidance": guidance}
        how_opened |= {"device": None if device is None else str(processes.device)}
        how_opened |= {"channels_last": channels_last, "compile": compile}
        opened = open_model(model, config=config, **how_opened)
        chosen = choose_classes(opened.description, class_, guidance)
        if subspace_config is not None and subspace is None:
            raise PrescoreError("subspace_config: belongs to subspace")
        coarse = None if subspace is None else open_model(subspace, config=subspace_config, **how_opened)
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
            clip=clip,
            start=start,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            **{"alpha": parse_alpha(alpha), **context.obj},
        )
        settings = settings_of(opened, decided, chosen)
        if coarse is not None:
            settings |= {"subspace_sha256": coarse.settings["model_sha256"], "subspace_config": subspace_config}
        if settings.get("norm") == "batch":  # then a sample depends on its batch-mates
            settings |= {"seeds": text_of(numbers), "batch_size": size}

        def announce(output: "Output", size: int, calls: int | None) -> None:
            how = {
                "noise levels": decided.shown_levels,
                "seeds": text_of(numbers),
                "batch_size": size,
                **({"shard": shard} if shard else {}),
                "device": decided.denoiser.device,
                **({"processes": processes.count} if processes.count > 1 else {}),
                "calls": "as many as the tolerance needs" if calls is None else calls * processes.count,
                "out": output.path,
            }
            print(facts(dict(output.settings) | how), flush=True)

        try:
            written = write_samples(
                decided,
                out,
                numbers,
                batch_size=size,
                shard_size=shard_size,
                shard_format=shard_format,
                as_numbers=as_numbers,
                condition=chosen.condition if chosen else None,
                share=shard,
                trajectory=trajectory,
                settings=settings,
                processes=processes,
                before=announce,
            )
        except Exception as error:
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                reason = str(error).strip().partition("\n")[0]
                raise PrescoreError(
                    f"--compile: the network cannot be compiled here ({reason}); leave it out"
                ) from None
            raise
        if processes.is_first:
            took = (
                f"{calls_text(written.calls, 'network ')} in {written.seconds:.1f} s, written to {show(written.path)}"
            )
            there = "nothing is left to draw" + (f" of share {shard}, nothing is written" if shard else "")
            rest = "" if written.is_complete else ", other shares are still to be drawn"
            complete = f", all samples are in {show(written.path)}" if written.is_complete else rest
            print(took + rest if written.samples else there + complete)
