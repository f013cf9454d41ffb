"""What the steps of a solver do wrong, level by level, and the noise levels that follow from it.

On trajectories that are known (`prescore.samplers.calibrated` makes them) the error of one step that starts from exact
values costs no network call: with lam = -log sigma, for a two-step solver,

    first(lam)        of the first step, from lam_0 to lam, which knows one value of the network
    inner(lam, h)     of a step from lam to lam + h, whose earlier value is at lam - h
    last(lam)         of the step from lam to sigma = 0

each carried to sigma = 0 by the flow of the Gaussian model of the data, as a root mean square over samples and numbers.

A sequence of levels gives all steps but the last the same error eps: from lam_0 on they follow one after the other by
solving inner(lam, h) = eps for h. Around the Gaussian model the eps is taken that minimises

    (N - 1) eps^2 + last(lam_(N-1))^2

so the lowest level comes out by itself: few steps stop far above sigma_min.

Two things make such a grid better on the whole trajectory than the measured errors by themselves. log inner is
averaged over `WINDOW` in lam on either side, since a step is longer than the features of the curve and its errors
persist; and it is replaced by the mean of itself and of its own mean over lam, since the later steps correct some of
what an earlier one did wrong.

With data prediction most of the error of few steps is made on the Gaussian part of the data, at high noise, and the
steps undo much of each other's: a sum of squares is wrong there by a factor. But on the Gaussian model the solver is
linear, and its error at the end follows exactly from one recursion for each variance. So the prediction is

    error^2 = (exact error on the Gaussian model)^2 + (sum of the squares of the steps around it)

and the grid that minimises it is taken: among those of equal errors of either solver and all geometric ones.

Solvers that look back further, or correct, have errors that one step does not show. For these a `Rule` says what served
them best where it was tried: the levels of one of the two above, a geometric progression and where it ends, or levels
uniform in the time of a VP schedule for data of some deviation, which are dense around that deviation and end above it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from prescore.errors import PrescoreError
from prescore.grid import append_zero, geometric, interpolate
from prescore.statistics.fit import FittedWeights
from prescore.tuned import LONGEST_STEP, WINDOW

# For T levels: those chosen for a prediction; uniform in VP time, for data of so many of their deviations; or
# geometric, down to this share of the deviation over T.
Rule = str | float
UNIFORM_T = "uniform-t "  # with the number behind it
PREDICTIONS = ("data", "gaussian")  # solvers whose steps are measured, by what they solve exactly
TRIALS = 400  # values of eps looked at
TOLERANCE = 1e-3  # relative, between noise ranges that are called the same


def is_rule(value: object) -> bool:
    """Whether a value is a `Rule`."""
    if isinstance(value, str):
        text = value.removeprefix(UNIFORM_T)
        return value in PREDICTIONS or (text != value and text.isascii() and _is_sensible(text))
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-6 < value < 1e6


def _is_sensible(text: str) -> bool:
    """Whether a text is a plain number of deviations."""
    return text.replace(".", "", 1).isdigit() and len(text) < 12 and 1e-3 < float(text) < 1e3


@dataclass(frozen=True, eq=False)
class SolverErrors:
    """Errors of the steps of one solver at the levels of a `StepErrors`: first (L,), inner (W, L), last (L,)."""

    first: Tensor
    inner: Tensor
    last: Tensor

    @property
    def rows(self) -> Tensor:
        """All of them, (W + 2, L): first, last and inner."""
        return torch.stack([self.first, self.last, *self.inner])

    @classmethod
    def of(cls, rows: Tensor) -> "SolverErrors":
        """Those of which `rows` are the rows."""
        return cls(rows[0], rows[2:], rows[1])


@dataclass(frozen=True, eq=False, kw_only=True)
class StepErrors:
    """What the steps of solvers do wrong on a model. Tensors are float64.

    Attributes:
        levels: the noise levels, geometric from sigma_max to sigma_min, (L,).
        widths: lengths h of the steps, in lam, increasing, (W,).
        variances, shares: of the Gaussian model, those of coordinates that are nearly alike taken as one, and the share
            of all coordinates that each stands for, (G,).
        solvers: the errors of the two-step solver with data prediction ("data") and around the Gaussian model
            ("gaussian"), in the units of the data.
        count: number of trajectories.
        model: name of the model.
    """

    levels: Tensor
    widths: Tensor
    variances: Tensor
    shares: Tensor
    solvers: Mapping[str, SolverErrors]
    count: int
    model: str = ""

    def scaled(self, a: float) -> "StepErrors":
        """Those for data that are multiplied by a, and so their noise."""
        solvers = {prediction: SolverErrors.of(a * errors.rows) for prediction, errors in self.solvers.items()}
        return replace(self, levels=a * self.levels, variances=a**2 * self.variances, solvers=solvers)

    def check_range(self, sigma_min: float, sigma_max: float) -> None:
        """Raise PrescoreError if they were measured for another noise range."""
        if not self.is_for(sigma_min, sigma_max):
            raise PrescoreError(
                f"grid: auto was measured for noise from {self.levels[-1]:g} to {self.levels[0]:g}, {sigma_min:g} to "
                f"{sigma_max:g} is asked for; take the range of the calibration, or --grid geometric"
            )

    def is_for(self, sigma_min: float, sigma_max: float) -> bool:
        """Whether they were measured for this noise range."""
        own = self.levels[-1].item(), self.levels[0].item()
        return all(abs(a / b - 1) <= TOLERANCE for a, b in zip(own, (sigma_min, sigma_max), strict=True))

    def grid(self, prediction: str, steps: int) -> Tensor:
        """Levels of so many steps from sigma_max, the last one to 0, float64, (steps + 1,).

        Args:
            prediction: of the solver, in `PREDICTIONS`.
            steps: their number, at least 1.

        Raises:
            PrescoreError: `steps` is not a positive whole number.
        """
        _check_steps(steps)
        if steps == 1:
            return append_zero(self.levels[:1])
        lam = -self.levels.log()
        places, eps = self._equal_errors(prediction, steps)
        if prediction == "gaussian":
            total = (steps - 1) * eps**2 + interpolate(places[-1], lam, self.solvers[prediction].last) ** 2
        else:
            shares = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
            places = torch.cat([places, self._equal_errors("gaussian", steps)[0], lam[0] + shares * (lam - lam[0])], 1)
            places = places[:, places.diff(dim=0).min(0).values > 0]
            total = self._squares(prediction, places)
        best = torch.where(places[-1] <= lam[-1], total, math.inf).argmin()
        return append_zero(torch.exp(-places[:, best]))

    def levels_by(self, rule: Rule, steps: int) -> Tensor:
        """Levels by a rule, as those of `grid`; the same errors."""
        if isinstance(rule, str) and rule in PREDICTIONS:
            return self.grid(rule, steps)
        _check_steps(steps)
        low, high = self.levels[-1].item(), self.levels[0].item()
        deviation = (self.shares * self.variances).sum().sqrt().item()
        if isinstance(rule, str):
            return _uniform_in_time(low, high, float(rule.removeprefix(UNIFORM_T)) * deviation, steps)
        return geometric(steps, min(max(low, rule * deviation / steps), high / 2), high, final_zero=True)

    def error(self, prediction: str, grid: Tensor) -> float:
        """Predicted error of the samples on a grid that ends in 0."""
        return self._squares(prediction, -grid[:-1].log()[:, None]).sqrt().item()

    def _equal_errors(self, prediction: str, steps: int) -> tuple[Tensor, Tensor]:
        """Places lam of levels whose steps have the same error, (steps, trials), and that error, (trials,)."""
        lam, errors = -self.levels.log(), self.solvers[prediction]
        log_inner, log_widths = self._tempered(errors.inner), self.widths.log()
        highest = max(errors.first.max().item(), math.exp(log_inner.max().item()))
        # A cube law from the highest error bounds that of many steps from below.
        lowest = highest * 1e-4 / steps**3
        eps = torch.logspace(math.log10(lowest), math.log10(highest), TRIALS, dtype=torch.float64)
        places = [lam[:1].expand(TRIALS), torch.minimum(_invert(eps, errors.first, lam), lam[0] + LONGEST_STEP)]
        for _ in range(steps - 2):
            errors_here = interpolate(places[-1], lam, log_inner)
            places.append(places[-1] + _widths(eps.log(), errors_here, log_widths).exp().clamp(max=LONGEST_STEP))
        return torch.stack(places), eps

    def _squares(self, prediction: str, places: Tensor) -> Tensor:
        """Predicted mean square error on grids whose levels are at the places (N, n), and then 0; (n,)."""
        errors, lam = self.solvers["gaussian"], -self.levels.log()
        total = interpolate(places[-1], lam, errors.last) ** 2
        if len(places) > 1:
            total = total + interpolate(places[1], lam, errors.first) ** 2
        if len(places) > 2:
            log_errors = interpolate(places[1:-1].flatten(), lam, errors.inner.clamp(min=1e-300).log())
            inner = _at(places.diff(dim=0)[1:].flatten().log(), self.widths.log(), log_errors).exp() ** 2
            total = total + inner.reshape(len(places) - 2, -1).sum(0)
        return total if prediction == "gaussian" else total + self._linear_squares(places)

    def _linear_squares(self, places: Tensor) -> Tensor:
        """The mean square error of `dpmpp-2m` on data that are the Gaussian model, exactly; (n,)."""
        sigma, C = torch.exp(-places)[..., None], self.variances
        x, before = torch.ones(places.shape[1], len(C), dtype=torch.float64), None
        for i, s in enumerate(sigma):
            t = sigma[i + 1] if i + 1 < len(sigma) else torch.zeros_like(s)
            denoised = C / (C + s**2) * x
            value = denoised
            if before is not None and i + 1 < len(sigma):
                value = denoised + (denoised - before) * (s / t).log() / (2 * (sigma[i - 1] / s).log())
            x, before = t / s * x + (1 - t / s) * value, denoised
        start = C + sigma[0] ** 2
        return ((x - (C / start).sqrt()) ** 2 * start * self.shares).sum(1)

    def _tempered(self, inner: Tensor) -> Tensor:
        """log inner as grids use it: smooth and flattened along lam, rising along h."""
        spacing = (self.levels[0] / self.levels[-1]).log().item() / (len(self.levels) - 1)
        box = max(1, round(WINDOW / spacing))
        log = inner.clamp(min=1e-300).log()
        padded = torch.nn.functional.pad(log[None], (box, box), mode="replicate")
        smooth = torch.nn.functional.avg_pool1d(padded, 2 * box + 1, 1)[0]
        return ((smooth + smooth.mean(1, keepdim=True)) / 2).cummax(0).values


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """What was tuned for solvers on a model.

    Attributes:
        rules: by solver and number of steps the rule whose levels served it best where they were tried.
        fits: by number of steps the weights that were fitted for `p-fit`.
        starts: by the place where samples start, "gaussian" or "noise", their squared distance from the data, and the
            standard "error" of the difference; empty where it was not measured.
    """

    rules: Mapping[str, Mapping[int, Rule]] = field(default_factory=dict)
    fits: Mapping[int, FittedWeights] = field(default_factory=dict)
    starts: Mapping[str, float] = field(default_factory=dict)

    def scaled(self, a: float) -> "Tuning":
        """That for data that are multiplied by a, and so their noise."""
        fits = {steps: fit.scaled(a) for steps, fit in self.fits.items()}
        return replace(self, fits=fits, starts={name: a**2 * distance for name, distance in self.starts.items()})

    def rule(self, sampler: str, steps: int) -> Rule | None:
        """That of a solver for so many steps: of the nearest number that was tried; None if none was."""
        _check_steps(steps)
        tried = self.rules.get(sampler, {})
        return tried[min(tried, key=lambda n: abs(math.log(n / steps)))] if tried else None


def _uniform_in_time(low: float, high: float, scale: float, steps: int) -> Tensor:
    """Levels from `high` to 0 that are uniform in the time t of a VP schedule for data of the deviation `scale`,
    log(1 + (sigma / scale)^2) ~ t^2; the last but one not below `low`."""

    def log_of(sigma: float) -> float:
        return math.log1p((sigma / scale) ** 2)

    least = max(1 / steps, math.sqrt(log_of(low) / log_of(high)))
    t = torch.linspace(1, least, steps, dtype=torch.float64) if steps > 1 else torch.ones(1, dtype=torch.float64)
    levels = scale * torch.expm1(log_of(high) * t**2).sqrt()
    levels[0] = high
    return append_zero(levels.clamp(min=low))


def _check_steps(steps: int) -> None:
    if not isinstance(steps, int) or steps < 1:
        raise PrescoreError(f"steps: {steps!r} is not a positive whole number")


def _invert(eps: Tensor, values: Tensor, positions: Tensor) -> Tensor:
    """Where values, made to rise, reach eps."""
    rising = values.cummax(0).values
    i = (torch.searchsorted(rising, eps, right=True) - 1).clamp(0, len(positions) - 2)
    share = ((eps - rising[i]) / (rising[i + 1] - rising[i]).clamp(min=1e-300)).clamp(0, 1)
    return torch.lerp(positions[i], positions[i + 1], share)


def _widths(log_eps: Tensor, log_errors: Tensor, log_widths: Tensor) -> Tensor:
    """log h at which the errors (W, n) reach eps (n,); by the law of the third power beyond the ends."""
    h = log_widths[0] + (log_eps - log_errors[0]) / 3
    for w in range(len(log_widths) - 1):
        low, high = log_errors[w], log_errors[w + 1]
        share = ((log_eps - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
        h = torch.where(log_eps >= low, torch.lerp(log_widths[w], log_widths[w + 1], share), h)
    return torch.where(log_eps > log_errors[-1], log_widths[-1] + (log_eps - log_errors[-1]) / 3, h)


def _at(log_h: Tensor, log_widths: Tensor, log_errors: Tensor) -> Tensor:
    """log of the errors (W, n), given at the widths (W,), at log h (n,); by the same law beyond the ends."""
    inside = log_h.clamp(log_widths[0], log_widths[-1])
    i = (torch.searchsorted(log_widths, inside, right=True) - 1).clamp(0, len(log_widths) - 2)
    share = (inside - log_widths[i]) / (log_widths[i + 1] - log_widths[i])
    columns = torch.arange(len(log_h))
    return torch.lerp(log_errors[i, columns], log_errors[i + 1, columns], share) + 3 * (log_h - inside)
