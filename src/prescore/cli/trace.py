"""`prescore trace`."""

from pathlib import Path
from typing import Annotated

import typer

from prescore.cli.shared import Class, Config, Device, Guidance, Model, Raw, Seed, Start, StatisticsFile, which_weights
from prescore.errors import PrescoreError


def trace(
    model: Model,
    out: Annotated[Path, typer.Option(help="NAME.gif: a film; NAME.png: a strip, one column a step.")],
    samplers: Annotated[
        str, typer.Option(help="One or more, with commas, as `prescore compare` takes them: p-ode-3m,pds[alpha=4].")
    ] = "auto",
    calls: Annotated[int, typer.Option(help="Network calls of each.")] = 8,
    n: Annotated[int, typer.Option("--n", "--samples", help="Number of samples.")] = 4,
    seed: Seed = 0,
    statistics: StatisticsFile = None,
    start: Start = None,
    class_: Class = None,
    guidance: Guidance = None,
    config: Config = None,
    raw: Raw = False,
    device: Device = None,
) -> None:
    """Show what a model predicts after each step of one or more samplers, for the same seeds."""
    from tqdm import tqdm

    from prescore.cli.plan import choose_classes, count_seeds, different, open_model
    from prescore.cli.report import show
    from prescore.comparison.runs import plan_runs, split_runs
    from prescore.files import check_writable
    from prescore.film import KINDS, save_films
    from prescore.film import trace as traced

    if out.suffix.lower() not in KINDS:
        raise PrescoreError(f"--out: {out} given; name a .gif, a film, or a .png, a strip")
    check_writable(out)
    seeds, names = count_seeds(seed, n), different("--samplers", split_runs(samplers))
    opened = open_model(model, config=config, weights=which_weights(raw), device=device, guidance=guidance)
    chosen = choose_classes(opened.description, class_, guidance)
    films = {}
    runs = plan_runs(opened.denoiser, names, [calls], statistics, start=start)
    for run in tqdm(runs, unit="sampler", disable=None, leave=False):
        name = run.plan.name if run.name == "auto" else run.name
        condition = chosen.condition(seeds) if chosen else None
        films[name] = traced(run.plan, seeds, condition=condition, progress=False)
    save_films(out, films)
    print(f"{', '.join(films)}: {show(out)}")
