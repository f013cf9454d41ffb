"""`prescore info`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prescore.cli.shared import Config, Raw, which_weights
from prescore.errors import PrescoreError

if TYPE_CHECKING:
    from torch import Tensor

    from prescore import Denoiser, Statistics
    from prescore.statistics import StepErrors

LENGTH = 300  # of what a file says about its model, shown in one line
UNNAMED = "a model without a name"
ALPHAS = (1.5, 2.0, 3.0, 5.0, 10.0, 25.0)
GRID_STEPS = (5, 8, 12)
ENTRIES = 20  # of a vector that are listed


def info(
    file: Annotated[
        str,
        typer.Argument(
            help="A statistics file, a model of any format, a shipped model (mnist-ve), or package.module:factory."
        ),
    ],
    plot: Annotated[
        Path | None, typer.Option(help="Draw the statistics into this PNG: power against frequency, weights.")
    ] = None,
    config: Config = None,
    raw: Raw = False,
) -> None:
    """Show what is inside a statistics file or a model."""
    from prescore.assets import STATISTICS_SUFFIX, find, shipped_models
    from prescore.checkpoints import native
    from prescore.checkpoints.detect import locate
    from prescore.checkpoints.python import is_python
    from prescore.files import check_writable
    from prescore.statistics import load_statistics

    if plot is not None:
        check_writable(plot)
    if is_python(file):
        if plot is not None:
            raise PrescoreError(f"--plot: {file} is a model; only statistics have a picture")
        print(describe_python(file, config, which_weights(raw)))
        return
    path = locate(file)
    texts, statistics = [], None
    if native.matches(path) and "prescore" not in native.read_safetensors(path)[0]:
        statistics = load_statistics(path)
    else:
        texts.append(describe_model(file, config, which_weights(raw)))
        if file in shipped_models():
            statistics = load_statistics(find(file, STATISTICS_SUFFIX))
    if statistics is not None:
        texts += [describe_statistics(statistics), *describe_extras(statistics)]
    elif plot is not None:
        raise PrescoreError(f"--plot: {file} is a model; only statistics have a picture")
    print("\n\n".join(texts))
    if plot is not None and statistics is not None:
        from prescore.cli.plots import plot_statistics
        from prescore.cli.report import show

        plot_statistics(statistics, plot)
        print(f"\npicture in {show(plot)}")


def describe_model(name: str, config: str | None = None, weights: str = "ema") -> str:
    """How a model's network is built, called and was trained. Arguments as for `prescore.load`."""
    from prescore.checkpoints.detect import locate, open_model
    from prescore.checkpoints.labels import classes_of
    from prescore.cli.report import facts, show

    description, denoiser = open_model(name, config=config, weights=weights)
    classes = classes_of(description)
    values: dict[str, object] = {
        "model": description.name,
        "file": locate(name),
        "network": f"{description.network}, {description.preconditioning} preconditioning",
        "parameters": f"{count_parameters(denoiser):,} ({description.weights})",
        "event shape": description.event_shape,
        "classes": f"{classes.count}{', or none' if classes.optional else ''}" if classes else "none",
        "data range": f"{description.data_range[0]:g} to {description.data_range[1]:g}",
        "data mean removed": description.data_mean_removed,
        "noise range": f"{description.sigma_min:g} to {description.sigma_max:g}",
    }
    if description.sampling is not None:
        values |= _flat("sampling defaults", description.sampling.known)
    values |= _flat("preconditioning", description.preconditioning_arguments)
    values |= _flat("network", description.arguments) | _flat("autoencoder", description.autoencoder or {})
    values |= _flat("training", description.training)
    return facts({label: _shortened(show(value)) for label, value in values.items()})


def describe_python(name: str, config: str | None = None, weights: str = "ema") -> str:
    """What a model that is the user's own code says of itself. Arguments as for `prescore.cli.plan.open_model`."""
    from prescore.cli.plan import open_model
    from prescore.cli.report import facts, show

    opened = open_model(name, config=config, weights=weights)
    denoiser = opened.denoiser
    known = denoiser.data_range
    values: dict[str, object] = {
        "model": f"{name}, Python code of your own, digest {opened.settings['model_sha256']}",
        "name": denoiser.name,
        "event shape": denoiser.event_shape,
        "data range": f"{known[0]:g} to {known[1]:g}" if known else "not known",
        "data mean removed": denoiser.data_mean_removed,
        "noise range": f"{denoiser.sigma_min:g} to {denoiser.sigma_max:g}",
        "dtype": opened.settings["dtype"],
        "device": denoiser.device,
        "network calls": denoiser.network_calls,
        "statistics": "brought" if denoiser.statistics is not None else "none",
    }
    return facts({label: _shortened(show(value)) for label, value in values.items()})


def count_parameters(denoiser: "Denoiser") -> int:
    """Numbers that the network of a loaded model has learned or was given as parameters."""
    from torch import nn

    return sum(p.numel() for p in denoiser.function.parameters()) if isinstance(denoiser.function, nn.Module) else 0


def _shortened(text: str) -> str:
    """What a file says, in moderate length."""
    return text if len(text) <= LENGTH else f"{text[:LENGTH]}... ({len(text)} characters)"


def _flat(prefix: str, values: Mapping[str, object]) -> dict[str, object]:
    """Nested mappings as one, with longer names."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(f"{prefix} {name}", value) if isinstance(value, dict) else {f"{prefix} {name}": value}
    return flat


def describe_statistics(statistics: "Statistics") -> str:
    """What was measured, the power from low to high frequencies, and what a preconditioner would make of it."""
    from prescore.cli.report import facts, table
    from prescore.metrics import radial_power
    from prescore.precondition import frequency_preconditioner, pixel_preconditioner

    moments = statistics.moments
    shape = moments.event_shape
    is_vector = len(shape) == 1
    head = {
        "statistics of": statistics.measured_on,
        "event shape": shape,
        **({} if is_vector else {"spectra over": f"the last {moments.axes} axes"}),
        "data range": f"{moments.data_range[0]:g} to {moments.data_range[1]:g}" if moments.data_range else "not known",
        "values found": f"{moments.minimum:.4g} to {moments.maximum:.4g}",
        "mean": moments.mean.mean().item(),
        "root mean square": moments.mean_square.mean().sqrt().item(),
        "written by": f"prescore {statistics.version}",
    }
    if moments.scales is not None:
        least, most = moments.scales[[0, -1]].tolist()
        head["power of a sample"] = f"{least:.3g} to {most:.3g} of the mean ({len(moments.scales)} equal parts)"
    if is_vector:
        return f"{facts(head)}\n\n{_entries(statistics)}"
    frequencies, raw = radial_power(moments.power, shape[-moments.axes :])
    centred = radial_power(moments.power_centred, shape[-moments.axes :])[1]
    raw, centred = (power.reshape(-1, len(frequencies)).mean(0) for power in (raw, centred))
    K = len(frequencies)
    rings = {K - 1: "high", K // 2: "mid", 1: "low", 0: "mean"}  # of one index, the last name
    power = [[rings[k], *(v[k].item() for v in (frequencies, raw, centred))] for k in sorted(rings) if k < K]
    weights = [
        [
            alpha,
            *(make(statistics, alpha).largest_gain(shape) for make in (frequency_preconditioner, pixel_preconditioner)),
        ]
        for alpha in ALPHAS
    ]
    return "\n\n".join(
        (
            facts(head),
            table(["frequency", "cycles a pixel", "power", "power about the mean"], power),
            table(["alpha", "largest weight: frequencies", "pixels"], weights),
        )
    )


def _entries(statistics: "Statistics") -> str:
    """Mean and deviation of each number of a vector, of many of those of the largest and the smallest deviation."""
    from prescore.cli.report import table

    moments = statistics.moments
    deviation = (moments.mean_square - moments.mean**2).clamp(min=0).sqrt()
    order = list(range(len(deviation)))
    if len(order) > ENTRIES:
        ranked = deviation.argsort(descending=True, stable=True).tolist()
        order = sorted(ranked[: ENTRIES // 2] + ranked[-ENTRIES // 2 :])
    rows = [[k, moments.mean[k].item(), deviation[k].item()] for k in order]
    return table(["entry", "mean", "deviation"], rows)


def describe_extras(statistics: "Statistics") -> list[str]:
    """What was measured beside the moments, if it was: principal components, a model's score, errors of steps."""
    from prescore.cli.report import facts, show, table
    from prescore.gaussian import doubt_of, error_share
    from prescore.samplers.calibrated import MEASURED, rule_text
    from prescore.statistics.steps import PREDICTIONS

    moments, score, steps = statistics.moments, statistics.model.score, statistics.model.steps
    texts = []
    if moments.component_variances is not None and moments.remainder_variance is not None:
        variances, rest = moments.component_variances, moments.remainder_variance
        left = moments.mean.numel() - len(variances)
        share = variances.sum() / (variances.sum() + left * rest) if rest else 1.0
        values = {
            "principal components": len(variances),
            "their variances": f"{variances[0]:.4g} to {variances[-1]:.4g}",
            "variance of each other direction": rest,
            "share of all variance": f"{float(share):.1%}",
        }
        texts.append(facts(values))
    if score is not None:
        by_score, by_residual = (score.posterior_variance(score.levels, name) for name in ("score", "residual"))
        chance = score.chance(moments.mean.numel())
        spread = [_deviation(V, error) for V, error in zip(by_score.tolist(), chance.tolist(), strict=True)]
        shares = [f"{share:.1%}" for share in error_share(statistics).shares.tolist()]
        rows = [
            [sigma, spread[i], by_residual[i].sqrt().item(), shares[i]] for i, sigma in enumerate(score.levels.tolist())
        ]
        heads = [
            "noise level",
            "deviation of x0 given x: by the score",
            "by the residual",
            "left of the Gaussian's error",
        ]
        doubt = doubt_of(statistics)
        own = " of its own" if statistics.samples_of else ""
        guided = "" if statistics.model.guidance == 1 else f", with guidance {statistics.model.guidance:g}"
        title = f"score of {show(score.model or UNNAMED)} on {score.count} samples{own}{guided}"
        texts.append(f"{title}\n{table(heads, rows)}")
        if 0.0 in spread:
            texts[-1] += "\nby the score 0: no more than chance, or the score is larger there than an exact one can be"
        texts[-1] += f"\nwarning: {doubt}" if doubt else ""
    if (shrinkage := statistics.model.shrinkage) is not None:
        rows = [
            [sigma, " ".join(f"{w:.2g}" for w in row)]
            for sigma, row in zip(shrinkage.levels.tolist(), shrinkage.weights.tolist(), strict=True)
            if min(row) < 1
        ]
        heads = [
            "noise level",
            "weight of the network beside the Gaussian model, from the largest variances to the smallest",
        ]
        title = f"what auto uses of the network, from noise {shrinkage.levels[0]:.3g} down; all where none is shown"
        texts.append(f"{title}\n" + table(heads, rows))
    if steps is not None:
        rows = [[n, *map(show, _recommended(steps, n))] for n in GRID_STEPS]
        title = f"steps of solvers on {steps.count} samples of {show(steps.model or UNNAMED)}, for --grid auto"
        texts.append(f"{title}\n" + table(["steps", *(MEASURED[prediction] for prediction in PREDICTIONS)], rows))
        if tuned := {name: rules for name, rules in statistics.tuning.rules.items() if rules}:
            numbers = sorted({n for rules in tuned.values() for n in rules})
            rows = [[n, *(rule_text(rules[n]) if n in rules else "" for rules in tuned.values())] for n in numbers]
            texts.append("levels that served best where they were tried\n" + table(["steps", *tuned], rows))
    if starts := statistics.tuning.starts:
        title = "squared distance of the mean and the deviations of samples from the data's, by where they start"
        texts.append(f"{title}\n" + table(list(starts), [list(starts.values())]))
    if fits := statistics.tuning.fits:
        names = list(next(iter(fits.values())).errors)
        rows = [
            [n, *(fits[n].errors.get(name, "") for name in names), show(_rounded(fits[n].levels))] for n in sorted(fits)
        ]
        first = next(iter(fits.values()))
        about = f"weights fitted to {first.count} samples of {first.model or UNNAMED}"
        title = f"error of the state, {about}, p-fit on such as were held out"
        texts.append(f"{title}\n" + table(["steps", *names, "its levels"], rows))
    return texts


def _deviation(variance: float, error: float) -> float:
    """The root of a variance in those of three digits that its standard error leaves; 0 if it is no larger."""
    if variance <= error:
        return 0.0
    deviation = variance**0.5
    digits = -math.floor(math.log10(error / (2 * deviation))) if error else 16
    return float(f"{round(deviation, digits):.3g}")


def _rounded(levels: "Tensor") -> list[float]:
    """The levels above 0 to two digits."""
    return [float(f"{level:.2g}") for level in levels[:-1].tolist()]


def _recommended(errors: "StepErrors", steps: int) -> list[list[float]]:
    """The levels of so many steps for each kind of solver, to two digits."""
    from prescore.statistics.steps import PREDICTIONS

    return [_rounded(errors.grid(name, steps)) for name in PREDICTIONS]
