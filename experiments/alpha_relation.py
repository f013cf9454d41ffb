"""The best alpha against the number of steps T, and what 10 % more or less of it costs: Figure 11 and Table 10 of PDS.

    python experiments/alpha_relation.py
    python experiments/alpha_relation.py --statistics photos.statistics.safetensors --sigma-min 0.01 --sigma-max 50
    python experiments/alpha_relation.py --model checkpoint.pth --config my.yml --statistics FILE

The paper finds alpha for five T by a search over samples and predicts others by (1 + 1/alpha)^p - 1 = a/T + b. Here the
search is over the Gaussian model of the data, on which the Frechet distance of a sampler's results is known without
samples: variance v and squared bias e of each real coordinate follow `prescore.samplers.recursion`, and

    distance = sum over real coordinates of (sqrt(v) - sqrt(c))^2 + e.

It is the distance in pixels, as if n were infinite. The smallest of 60 values of 1/alpha is refined by a parabola.
"""

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from drawing import BLACK, GREY, SERIES, few_decades, label_ends, numbered, page
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from power_law import SIGMA, STATISTICS
from publish import Runs, add_options, command, output_folder, publish, table
from subjects import add_network_options, load_network
from torch import Tensor

import prescore
from prescore.errors import PrescoreError
from prescore.precondition import log_power, normalise
from prescore.samplers import AlphaChoice, AlphaRelation, PredictorCorrector
from prescore.samplers.recursion import recursion_steps
from prescore.statistics import Statistics, in_range

STEPS = (20, 30, 40, 50, 70, 100, 200, 300, 400, 1000)
FITTED = 50  # the least T of a fit: the paper's
POWER_LAW = "power law"
SHIPPED = ("mnist-ve", "natural-edm", "topography-edm")
T0, RULED, CHOSEN = 1000, (50, 100, 200, 400, 1000), (20, 50, 100, 200)  # of the step rule
RULES = {"0.16": None, f"0.16 √({T0}/T)": T0}
STRENGTHS = torch.logspace(-3, math.log10(0.8), 60, dtype=torch.float64)  # 1/alpha
PERTURBED = (200, 100, 50)
# Table 1 of the paper, and the R^2 that it prints.
PAPER: Mapping[str, tuple[int, dict[int, float], float]] = {
    "CIFAR-10": (1, {1000: 50, 400: 25, 200: 12, 100: 5, 50: 1.8}, 0.895),
    "CelebA": (2, {1000: 300, 400: 40, 200: 15, 100: 6, 50: 2.5}, 0.940),
}
PHOTOGRAPHS = "natural-edm"
TABLE_10 = {200: (2.53, 2.56, 2.58), 100: (2.90, 3.16, 3.10), 50: (4.90, 5.45, 7.34)}


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The Gaussian model of data, and the noise range of the model that it stands for."""

    label: str
    statistics: Statistics
    sigma_min: float
    sigma_max: float
    original_steps: int | None = None

    @classmethod
    def shipped(cls, name: str) -> "Surrogate":
        model = prescore.load(name)
        statistics = in_range(prescore.load_statistics(name), model.data_range)
        return cls(name, statistics, model.sigma_min, model.sigma_max)

    @property
    def c(self) -> Tensor:
        """Variance of each coordinate."""
        return self.statistics.moments.power_centred / self.statistics.moments.size_transformed

    def sampler(self, T: int) -> PredictorCorrector:
        return PredictorCorrector(steps=T, original_steps=self.original_steps)

    @property
    def count(self) -> Tensor:
        """Real coordinates of each."""
        return self.statistics.moments.multiplicity.to(torch.float64).expand(self.c.shape)

    def moments(self, T: int, strengths: Tensor) -> Iterator[tuple[tuple[Tensor, Tensor], float]]:
        """Variance and squared bias of each coordinate for each 1/alpha, at the start and after each of T steps, and
        the noise level."""
        moments = self.statistics.moments
        mean = torch.fft.rfftn(moments.mean, dim=moments.transformed_dims, norm="ortho").abs() ** 2
        R = normalise(log_power(moments.in_range((0.0, 1.0)).power), 1.0)
        m = 1 / (1 - strengths.reshape(-1, *(1,) * R.ndim) * (1 - R))
        sampler = self.sampler(T)
        levels = sampler.levels(self.sigma_min, self.sigma_max)
        return zip(recursion_steps(sampler, levels, self.c, mean, m, self.count), levels.tolist(), strict=True)

    def distances(self, T: int, strengths: Tensor) -> Tensor:
        """The Frechet distance after T steps for each 1/alpha."""
        *_, ((v, e), _) = self.moments(T, strengths)
        distance = (self.count * ((v[0].sqrt() - self.c.sqrt()).square() + e[0])).flatten(1).sum(1)
        return distance.nan_to_num(nan=math.inf)

    def noise(self, T: int, strengths: Tensor) -> Tensor:
        """How much noise is in excess on the way for each 1/alpha: the mean over levels and coordinates of
        ln(second moment about the mean / that of the level)."""
        total = torch.zeros(len(strengths), dtype=torch.float64)
        for (v, e), sigma in self.moments(T, strengths):
            if sigma > 0:
                total += (self.count * ((v[0] + e[0]) / (self.c + sigma**2)).log()).flatten(1).sum(1)
        return (total / self.count.sum() / T).nan_to_num(nan=math.inf)

    def best(self, T: int) -> float:
        """The alpha of the least distance."""
        d = self.distances(T, STRENGTHS)
        i = min(max(int(d.argmin()), 1), len(d) - 2)
        left, middle, right = d[i - 1 : i + 2].log().tolist()
        bend = left - 2 * middle + right
        shift = min(max((left - right) / (2 * bend), -1.0), 1.0) if bend > 0 else 0.0
        return 1 / (STRENGTHS[i].item() * (STRENGTHS[1] / STRENGTHS[0]).item() ** shift)

    def choice(self, T: int) -> AlphaChoice:
        return prescore.choose_alpha(self.sampler(T), self.statistics, self.sigma_min, self.sigma_max)


@dataclass(frozen=True)
class Row:
    """What is found at one T; alphas are infinite where no preconditioner is better than any."""

    label: str
    T: int
    best: float
    automatic: float
    plain_distance: float
    best_distance: float
    automatic_distance: float
    less_distance: float
    more_distance: float
    plain_noise: float
    best_noise: float

    @classmethod
    def of(cls, surrogate: Surrogate, T: int) -> "Row":
        best, automatic = surrogate.best(T), surrogate.choice(T).alpha
        alphas = [math.inf, best, automatic, 0.9 * best, 1.1 * best]
        strengths = 1 / torch.tensor(alphas, dtype=torch.float64)
        distances, noise = surrogate.distances(T, strengths), surrogate.noise(T, strengths[:2])
        return cls(surrogate.label, T, best, automatic, *distances.tolist(), *noise.tolist())

    @classmethod
    def kept(cls, runs: Runs, surrogate: Surrogate, T: int) -> "Row":
        """From the file, where an infinity is null, or `of(surrogate, T)`."""
        rule = "" if surrogate.original_steps is None else f", T0 {surrogate.original_steps}"
        return cls.read(runs.get(f"{surrogate.label}, T {T}{rule}", lambda: asdict(cls.of(surrogate, T))))

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Row":
        return cls(**{name: math.inf if value is None else value for name, value in found.items()})

    @classmethod
    def all_of(cls, runs: Mapping[str, Any]) -> tuple[list["Row"], list["Row"]]:
        """Those with r as it is, and those of the step rule."""
        sides: tuple[list[Row], list[Row]] = ([], [])
        for name, found in runs.items():
            if ", scales, " not in name:
                sides[name.endswith(f", T0 {T0}")].append(cls.read(found))
        return sides


def fit(pairs: Mapping[int, float], p: int = 1) -> AlphaRelation:
    """The relation over T from `FITTED` on, or over all where those are fewer than two."""
    chosen = {T: alpha for T, alpha in pairs.items() if T >= FITTED}
    return AlphaRelation.fit(chosen if len(chosen) > 1 else pairs, p)


def printed(relation: AlphaRelation, pairs: int) -> float:
    """R^2 as the paper prints it: the sum of the squared residuals over the mean of the squared deviations."""
    return 1 - pairs * (1 - relation.r_squared)


def draw_alpha(ax: Axes, rows: Sequence[Row]) -> None:
    """Best and automatic alpha over T, the line of the relation, and the paper's points."""
    ax.set(xscale="log", yscale="log", xlabel="T", ylabel="alpha", title="The best alpha rises with T")
    ends = []
    for label, colour in zip(dict.fromkeys(row.label for row in rows), SERIES, strict=False):
        own = [row for row in rows if row.label == label]
        steps = [row.T for row in own]
        ax.plot(steps, [row.best for row in own], "o", color=colour)
        ax.plot(steps, [row.automatic for row in own], "--", lw=1, color=colour)
        relation = fit({row.T: row.best for row in own})
        fitted = list(range(max(min(steps), FITTED), max(steps) + 1, 2))
        ax.plot(fitted, [relation.alpha(T) for T in fitted], lw=1, color=colour)
        ends.append((own[-1].best, label, colour))
    for (name, (_, pairs, _)), marker in zip(PAPER.items(), ("^", "v"), strict=True):
        ax.plot(list(pairs), list(pairs.values()), marker, mfc="none", color=BLACK)
        ends.append((pairs[max(pairs)], f"{name} (paper)", BLACK))
    numbered(ax, [20, 50, 100, 200, 400, 1000])
    few_decades(ax)
    label_ends(ax, ends, gap=0.07)


def draw_distance(ax: Axes, curves: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Distance over alpha, beside that of no preconditioner, with the automatic alpha marked."""
    ax.set(xscale="log", yscale="log", xlim=(1.3, 200), ylim=(0.03, 3), xlabel="alpha", ylabel="distance / plain")
    ends = []
    for (T, distances), colour in zip(curves["distances"].items(), SERIES, strict=False):
        (row,) = (row for row in rows if row.label == curves["label"] and int(T) == row.T)
        scaled = [math.nan if d is None else d / row.plain_distance for d in distances]
        ax.plot(curves["alphas"], scaled, color=colour)
        ax.plot(row.automatic, row.automatic_distance / row.plain_distance, "o", mfc="none", ms=8, color=colour)
        ends.append((scaled[0], f"T = {T}", colour))
    ax.axhline(1, color=GREY, lw=0.8)
    label_ends(ax, ends, gap=0.07)
    few_decades(ax)
    ax.set_title(f"{curves['label']} as a Gaussian; ring: automatic")


def draw(numbers: Mapping[str, Any]) -> Figure:
    """alpha over T, and distance over alpha."""
    rows, _ = Row.all_of(numbers["runs"])
    figure = page(4.4)
    left, right = figure.subplots(1, 2)
    draw_alpha(left, rows)
    draw_distance(right, numbers["curves"], rows)
    looks = {
        "best alpha": {"marker": "o", "ls": ""},
        "its relation to T": {"ls": "-"},
        "automatic alpha": {"ls": "--"},
        "Table 1 of the paper": {"marker": "^", "mfc": "none", "ls": ""},
    }
    handles = [Line2D([], [], color=BLACK, lw=1, label=name, **look) for name, look in looks.items()]
    figure.legend(handles=handles, loc="outside lower left", ncols=4)
    return figure


def shown(alpha: float) -> str:
    """An alpha as tables have it."""
    return "plain" if math.isinf(alpha) else f"{alpha:.3g}"


def change(distance: float, row: Row) -> float:
    """Of the distance with the best alpha, in percent."""
    return 100 * (distance / row.best_distance - 1)


def beside_paper(own: Mapping[str, Mapping[int, Row]]) -> str:
    """The automatic alpha of photographs beside what the paper's search found for such images."""
    if PHOTOGRAPHS not in own:
        return ""
    _, pairs, _ = PAPER["CIFAR-10"]
    shared = [T for T in sorted(pairs) if T in own[PHOTOGRAPHS]]
    ours, theirs = (
        [f"{alphas(T):.3g}" for T in shared] for alphas in (lambda T: own[PHOTOGRAPHS][T].automatic, pairs.get)
    )
    return (
        f"On photographs ({PHOTOGRAPHS}) the automatic alpha is {', '.join(ours)} at T = "
        f"{', '.join(map(str, shared))}; the paper's search by FID has {', '.join(theirs)} on CIFAR-10, whose images "
        "are such photographs, with another network and noise range.\n\n"
    )


def run_choices(runs: Runs, surrogates: Sequence[Surrogate]) -> None:
    """The automatic alpha on the models of data whose samples differ in scale, r as it is and by the rule."""
    for surrogate in surrogates:
        if surrogate.statistics.moments.scales is not None:
            for rule in RULES.values():
                for T in CHOSEN:
                    one = replace(surrogate, original_steps=rule)
                    name = f"{one.label}, scales, T {T}, T0 {rule}"
                    runs.get(name, lambda one=one, T=T: asdict(one.choice(T)))


def table_of_choices(runs: Mapping[str, Any]) -> list[list[Any]]:
    """Rows of a table: the distance of plain, and with the automatic alpha."""
    lines: list[list[Any]] = []
    for label in dict.fromkeys(name.partition(", scales, ")[0] for name in runs if ", scales, " in name):
        for title, rule in RULES.items():
            cells = []
            for T in CHOSEN:
                found = runs[f"{label}, scales, T {T}, T0 {rule}"]
                alpha = math.inf if found["alpha"] is None else found["alpha"]
                cells.append(f"{100 * found['plain_error']:.2g}; {100 * found['error']:.2g} ({shown(alpha)})")
            lines.append([label, title, *cells])
    return lines


def by_rule(rows: Sequence[Row], ruled: Sequence[Row], runs: Mapping[str, Any]) -> str:
    """The same closed form under the step rule of the paper's Section 7."""
    chosen = table_of_choices(runs)

    def count(error: str, least: int) -> str:
        """In how many cases of so many steps, or from `FITTED` of these on, r as it is has less of an error."""
        steps = CHOSEN[CHOSEN.index(least) :] if least >= FITTED else [least]
        names = [f"{line[0]}, scales, T {T}" for line in chosen[:: len(RULES)] for T in steps]
        pairs = [[runs[f"{name}, T0 {rule}"][error] for rule in RULES.values()] for name in names]
        return f"{sum(kept < ruled for kept, ruled in pairs)} of {len(pairs)} cases"

    steps, lines = sorted({row.T for row in ruled}), []
    for label in dict.fromkeys(row.label for row in ruled):
        for rule, found in zip(RULES, (rows, ruled), strict=True):
            own = {row.T: row for row in found if row.label == label}
            cells = (
                f"{shown(own[T].best)}; {own[T].best_distance / own[T].plain_distance:.2f}; "
                f"{100 * own[T].plain_noise:+.0f} %, {100 * own[T].best_noise:+.0f} %"
                for T in steps
            )
            lines.append([label, rule, *cells])
    _, pairs, _ = PAPER["CIFAR-10"]
    lines.append(["CIFAR-10, Table 1 of the paper", "", *(shown(pairs[T]) if T in pairs else "" for T in steps)])
    return f"""By the step rule of the paper's text r grows with fewer iterations, r √(T0/T), T0 = {T0}
(`--original-steps {T0}`). Here are, with r as it is and by the rule, the best alpha; the distance with it over that of
plain; and how much more noise than the level says the network is given on the way, plain and with the best alpha (the
mean over levels and coordinates of the logarithm of the variances' ratio):

{table(["", "r", *(f"T = {T}" for T in steps)], lines)}

By the rule the best alphas of a Gaussian are smaller. But a Gaussian forgets noise in excess, which the corrector
then makes, about r² T0/T of the level's, and which no alpha takes away. Data whose samples differ in scale keep it as
texture. On the model of such data by which the automatic alpha is chosen, the Frechet distance in percent of the data's
variance, plain and with the automatic alpha:

{table(["", "r", *(f"T = {T}" for T in CHOSEN)], chosen)}

From T = 50 on plain is nearer with r as it is in {count("plain_error", 50)}, PDS in {count("error", 50)}; with 20 steps
in {count("plain_error", 20)} and {count("error", 20)}. **The papers' pattern, plain ruined at T = 50 and 100 and PDS
near, with the alphas of Table 1, is nearest with r as it is.** By the rule PDS is held at the least alpha that is
stable, and stays far.
"""


def text(numbers: Mapping[str, Any]) -> str:
    """The section of docs/results.md."""
    rows, ruled = Row.all_of(numbers["runs"])
    rule = by_rule(rows, ruled, numbers["runs"])
    labels, steps = list(dict.fromkeys(row.label for row in rows)), sorted({row.T for row in rows})
    own = {label: {row.T: row for row in rows if row.label == label} for label in labels}
    relations = {label: fit({T: row.best for T, row in own[label].items()}) for label in labels}
    alphas = [
        [
            label,
            *(f"{row.best:.3g} ({shown(row.automatic)})" for row in own[label].values()),
            r.a,
            r.b,
            round(r.r_squared, 3),
            r.alpha(min(steps)),
        ]
        for label, r in relations.items()
    ]
    papers = []
    for name, (p, pairs, claimed) in PAPER.items():
        relation = AlphaRelation.fit(pairs, p)
        papers.append([name, relation.a, relation.b, round(relation.r_squared, 3)])
        papers[-1] += [round(printed(relation, len(pairs)), 3), claimed]
    perturbed = [T for T in PERTURBED if T in steps] or list(steps)
    changes = [
        [label, *(f"{change(row.less_distance, row):+.2g} %, {change(row.more_distance, row):+.2g} %" for row in at)]
        for label in labels
        for at in [[own[label][T] for T in perturbed]]
    ]
    theirs = [
        f"{100 * (less / best - 1):+.2g} %, {100 * (more / best - 1):+.2g} %"
        for best, more, less in (TABLE_10[T] for T in perturbed if T in TABLE_10)
    ]
    changes.append(["CIFAR-10, FID, Table 10 of the paper", *theirs, *["–"] * (len(perturbed) - len(theirs))])
    fits = sorted((relation.r_squared, label) for label, relation in relations.items())
    of_data = [r_squared for r_squared, label in fits if label != POWER_LAW] or [fits[0][0]]
    (least, worst), (most, _) = fits[0], fits[-1]
    of_names = "shipped models" if {*labels} <= {*SHIPPED, POWER_LAW} else "models"
    first, last = min(steps), max(steps)
    verdict = "Agrees" if min(of_data) >= 0.8 else "Agrees in part" if max(of_data) >= 0.8 else "Does not agree"
    return f"""## alpha against T (Figure 11, Table 10)

The paper finds that fewer iterations want a smaller alpha, and that (1 + 1/alpha)^p - 1 = a/T + b describes it, with
R² of 0.895 on CIFAR-10 (p = 1) and 0.940 on CelebA (p = 2). Here the best alpha is that of the least Frechet distance
on the Gaussian model of the data, in closed form (no samples, n infinite), for the spectra of {", ".join(labels)}
(names are {of_names}, whose statistics are taken; the power law is of 32x32 pixels), p = 1. In brackets stands the
automatic alpha (`--alpha auto`), which for the {of_names} takes their samples to differ in scale. a, b and R² are
of the best alphas from T = {FITTED} on; the last column is what their line says of T = {first}.

{table(["", *(f"T = {T}" for T in steps), "a", "b", "R²", f"line at {first}"], alphas)}

![alpha over T, and distance over alpha](figures/alpha_relation.png)

The same fit of the alphas of Table 1 gives:

{table(["Table 1 of the paper", "a", "b", "R²", "1 - 5 (1 - R²)", "printed"], papers)}

**{verdict}.** R² is up to {most:.3f}, and least on the {worst} ({least:.3f}). What the paper prints as R² is
1 - 5 (1 - R²): the sum of the squared residuals over the mean of the squared deviations. The best alphas level off
towards T = {last}, where the paper's go on to rise. The error that is left there is that of the corrector, whose step
its signal-to-noise ratio fixes, not T.

{beside_paper(own)}Change of the distance with an alpha 10 % smaller, 10 % larger than the best:

{table(["", *(f"T = {T}" for T in perturbed)], changes)}

The paper calls its method not sensitive to alpha; its own FID at T = 50 rises by half with an alpha 10 % smaller. On a
Gaussian nothing so steep is near the best alpha. The preconditioned solvers (`p-ode-2m` and the others) have no alpha,
and are exact on these models at any number of calls.

{rule}"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="alpha against T, and 10 % more or less of it (PDS)")
    add_network_options(parser, help="any checkpoint, with the --statistics of its data, beside the shipped ones")
    parser.add_argument("--statistics", help="of other data, beside the shipped ones")
    parser.add_argument("--sigma-min", type=float, default=0.01, help="of the model of these, if there is no --model")
    parser.add_argument("--sigma-max", type=float, default=50.0, help="of the model of these, if there is no --model")
    add_options(parser)
    options = parser.parse_args(arguments)
    surrogates = [Surrogate(POWER_LAW, STATISTICS, *SIGMA)]
    steps: Sequence[int] = (20, 50)
    if not options.quick:
        steps = STEPS
        surrogates = [*map(Surrogate.shipped, SHIPPED), *surrogates]
    if options.model is not None and options.statistics is None:
        raise PrescoreError(f"--model: {options.model} needs --statistics of its data; `prescore calibrate` makes them")
    if options.statistics is not None:
        statistics, ends = prescore.load_statistics(options.statistics), (options.sigma_min, options.sigma_max)
        if options.model is not None:
            model = load_network(options.model, options.config)
            statistics, ends = in_range(statistics, model.data_range), (model.sigma_min, model.sigma_max)
        surrogates.append(Surrogate(Path(options.model or options.statistics).stem, statistics, *ends))
    runs = Runs.open(options, "alpha_relation", {"alphas": len(STRENGTHS)})
    for surrogate in surrogates:
        for T in steps:
            Row.kept(runs, surrogate, T)
    for surrogate in [replace(surrogate, original_steps=T0) for surrogate in surrogates]:
        for T in [T for T in RULED if T in steps]:
            Row.kept(runs, surrogate, T)
    run_choices(runs, surrogates)
    first = surrogates[0]
    curves = {T: first.distances(T, STRENGTHS).tolist() for T in PERTURBED if T in steps}
    numbers = runs.numbers | {"curves": {"label": first.label, "alphas": (1 / STRENGTHS).tolist(), "distances": curves}}
    publish(output_folder(options), "alpha_relation", draw, text, numbers)


if __name__ == "__main__":
    command(main)
