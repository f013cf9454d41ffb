"""What the solvers are compared on: distributions with a denoiser, and the measures of what a solver makes.

    natural        exact mixture of 40 Gaussians fitted to grey 16x16 patches of photographs (see mixtures.py)
    topography     the same of heights and depths of the earth, whose spectrum is steeper
    fashion-mnist  the same of pictures of clothes
    power-law      a Gaussian of 16x16 pixels whose power falls as |k|^-2
    mnist-ve, natural-edm, ...   a shipped network

Frechet distances are those between Gaussians of the same mean and covariance as the samples and the data: 256 pixels;
for networks the means of 2x2 blocks. The mixtures' and the Gaussian's own moments are exact; those of the data of a
network, which are needed for nothing else, are of two thirds of its training images, and the others serve as true
samples. On the Gaussian a linear solver needs no samples: every
normal draw enters by a convolution, which the response to a single pixel shows. From these responses follow the exact
mean and power of the samples, as if n were infinite; solvers that are not linear (step sizes from norms) are left out.

The trajectory error of a deterministic solver is the root mean square, over pixels and samples, of the distance to the
exact probability flow from the same initial state: closed form for the Gaussian; for mixtures FLOW_STEPS steps of the
classical Runge-Kutta method, uniform in log sigma, down to FLOW_END; for networks NETWORK_STEPS, down to their lowest
level.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from literature import Coefficients, gits_levels, v3_coefficients
from mixtures import SOURCES, fit, fitted, held_out, patches
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

import prescore
from prescore.assets import find, shipped_models
from prescore.data import load_images
from prescore.gaussian import Gaussian, gaussian
from prescore.grid import append_zero, geometric, karras
from prescore.metrics import frechet_distance, power_spectrum_error
from prescore.noise import NoiseSource
from prescore.operators import Frequency
from prescore.samplers import make_sampler
from prescore.statistics import ModelStatistics, Moments, Statistics
from prescore.statistics.score import score_statistics

Denoise = Callable[[Tensor, Tensor], Tensor]
# A solver, from a given state or from its own start.
Solve = Callable[[Denoise, NoiseSource, Tensor | None], Tensor]
EDM_RANGE = (0.002, 80.0)
TRAJECTORIES, GITS_TRAJECTORIES, V3_TRAJECTORIES = 32, 64, 128
SCORED = 1000  # images that the score of a mixture is measured on
FLOORS = 16  # independent sets of true samples
CLASSES = {"clothes-edm": {"class_labels": 10}}  # networks that want classes get all of them in turn
ROWS = 64  # samples in a call of a network
FLOW_ROWS, FLOW_STEPS, FLOW_END = 1000, 200, 1e-4
NETWORK_ROWS, NETWORK_STEPS = 32, 48


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem(ABC):
    """Args:
    name: of the problem.
    denoise: `(x, sigma) -> x0`, float64 in and out.
    statistics: what a preconditioned solver is told of the data.
    sigma_min, sigma_max: noise range.
    identity: changes with the distribution.
    """

    name: str
    denoise: Denoise
    statistics: Statistics
    sigma_min: float
    sigma_max: float
    identity: str

    @property
    def event_shape(self) -> tuple[int, ...]:
        return self.statistics.event_shape

    @cached_property
    def model(self) -> prescore.Denoiser:
        """What samplers are planned for."""
        return prescore.Denoiser(
            self.denoise,
            self.event_shape,
            self.sigma_min,
            self.sigma_max,
            data_range=self.statistics.data_range,
            dtype=torch.float64,
            statistics=self.statistics,
        )

    @cached_property
    def measured(self) -> prescore.Denoiser:
        """The same with what the steps of our solvers do wrong on it, measured with seeds of their own."""
        if self.statistics.model.steps is not None:
            return self.model
        steps, tuning = prescore.measure_steps(
            self.model, gaussian(self.statistics), trajectories=TRAJECTORIES, seed=10**6
        )
        model = replace(self.statistics.model, steps=steps)
        return replace(self.model, statistics=replace(self.statistics, model=model, tuning=tuning))

    def gits(self, steps: int) -> Tensor:
        """GITS's levels for so many steps, from GITS_TRAJECTORIES trajectories over its 61 levels."""
        if steps not in self._gits:
            levels = karras(61, self.sigma_min, self.sigma_max)
            states, denoised = self.followed(levels, range(5 * 10**8, 5 * 10**8 + GITS_TRAJECTORIES))
            slopes = (states - denoised)[:-1] / levels[:-1].reshape(-1, *(1,) * (states.ndim - 1))
            self._gits.update(gits_levels(states, slopes, levels, tuple(range(1, 15))))
        return self._gits[steps]

    @cached_property
    def _gits(self) -> dict[int, Tensor]:
        return {}

    @cached_property
    def v3(self) -> Coefficients:
        """DPM-Solver-v3's statistics, of V3_TRAJECTORIES trajectories at 64 levels."""
        levels = geometric(64, self.sigma_min, self.sigma_max)
        states, _ = self.followed(levels, range(6 * 10**8, 6 * 10**8 + V3_TRAJECTORIES))
        return v3_coefficients(self.denoise, states, levels, torch.Generator().manual_seed(0))

    def followed(self, levels: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """States and denoised states of trajectories from sigma_max n, (N, K, *event) each, one call a level."""
        solver = make_sampler("dpmpp-3m", grid=append_zero(levels), warm_up=False)
        x, state = self.sigma_max * NoiseSource(seeds, self.event_shape)(), solver.start(levels)
        states, answers = list[Tensor](), list[Tensor]()

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            states.append(x)
            answers.append(self.denoise(x, sigma))
            return answers[-1]

        for s, t in pairwise(append_zero(levels)):
            x, state = solver.step(denoise, x, s, t, state, NoiseSource(seeds, self.event_shape))
        return torch.stack(states), torch.stack(answers)

    @abstractmethod
    def evaluate(self, solve: Solve, n: int, seed: int, stochastic: bool) -> dict[str, float]:
        """The measures of n samples that a solver makes."""

    @abstractmethod
    def floor(self, n: int) -> dict[str, list[float]]:
        """The same measures of several independent sets of n true samples."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Sampled(Problem):
    """A problem judged by samples.

    Args:
        true: the i-th set of n independent true samples, (n, *event).
        measures: what is measured of samples; None, if there are no data: then none are drawn.
        flow: where the exact probability flow takes states from sigma_max to 0.
        rows: how many states are compared with it.
        batch: samples at a time.
        floors: how many sets of true samples to take.
    """

    true: Callable[[int, int], Tensor]
    measures: Callable[[Tensor], dict[str, float]] | None
    flow: Callable[[Tensor], Tensor]
    rows: int = FLOW_ROWS
    batch: int = 10**6
    floors: int = FLOORS

    def evaluate(self, solve: Solve, n: int, seed: int, stochastic: bool) -> dict[str, float]:
        seeds, values = range(seed, seed + n), dict[str, float]()
        if self.measures is not None:
            parts = [seeds[i : i + self.batch] for i in range(0, n, self.batch)]
            values = self.measures(torch.cat([solve(self.denoise, self.noise(part), None) for part in parts]))
        if not stochastic:
            noise = self.noise(seeds[: self.rows])
            start = self.sigma_max * noise()
            own = solve(self.denoise, noise, start)
            values["trajectory"] = (own - self.flow(start)).square().mean().sqrt().item()
        return values

    def floor(self, n: int) -> dict[str, list[float]]:
        if self.measures is None:
            return {}
        sets = [self.measures(self.true(i, n)) for i in range(self.floors)]
        return {name: [values[name] for values in sets] for name in sets[0]}

    def noise(self, seeds: Sequence[int]) -> NoiseSource:
        return NoiseSource(seeds, self.event_shape)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Problem):
    """Stationary Gaussian data and linear solvers: no samples, n is infinite."""

    oracle: Gaussian

    def evaluate(self, solve: Solve, n: int, seed: int, stochastic: bool) -> dict[str, float]:
        offset, transfer = self.response(lambda noise: solve(self.denoise, noise, None))
        own = transfer.abs().square().sum(0).sqrt()
        shift = (offset - self.oracle.mean).square().sum()
        values = {"frechet": (shift + (self.multiplicity * (own - self.C.sqrt()).square()).sum()).item()}
        if not stochastic:
            offset, transfer = self.response(lambda noise: solve(self.denoise, noise, self.sigma_max * noise()))
            exact = (self.C / (self.C + self.sigma_max**2)).sqrt()
            start = self.oracle.ode_solution(
                torch.zeros(1, *self.event_shape).double(), torch.tensor(self.sigma_max), 0
            )
            squares = (offset - start[0]).square().sum()
            squares += (self.multiplicity * (transfer[0] - self.sigma_max * exact).abs().square()).sum()
            values["trajectory"] = (squares / offset.numel()).sqrt().item()
        return values

    def response(self, run: Callable[[NoiseSource], Tensor]) -> tuple[Tensor, Tensor]:
        """What the samples are without any draw, and the transfer function of each draw."""
        count = Impulses(self.event_shape, 1, 0)
        run(count)
        x = run(Impulses(self.event_shape, count.draw + 2, count.draw))
        offset, responses, together = x[0], x[1:-1] - x[0], x[-1] - x[0]
        if (together - responses.sum(0)).abs().max() > 1e-8 * responses.abs().max():
            raise NotLinearError
        return offset, torch.fft.rfft2(responses)

    def floor(self, n: int) -> dict[str, list[float]]:
        covariance = self.oracle.covariance.as_matrix(self.event_shape)
        exact = self.oracle.mean.flatten(), covariance
        sets = [self.oracle.transform(NoiseSource(_set(i, n), self.event_shape)()) for i in range(FLOORS)]
        return {"frechet": [frechet_distance(x, exact) for x in sets]}

    @property
    def C(self) -> Tensor:
        assert isinstance(self.oracle.covariance, Frequency)
        return self.oracle.covariance.weights

    @property
    def multiplicity(self) -> Tensor:
        return self.statistics.moments.multiplicity


class NotLinearError(Exception):
    """A solver whose samples are not a linear function of its draws."""


class Impulses(NoiseSource):
    """In place of normal draws: row i + 1 has a 1 in the first pixel of draw i; row 0 nothing, the last row all."""

    def __init__(self, event_shape: Sequence[int], rows: int, draws: int) -> None:
        super().__init__(range(rows), event_shape)
        self.draws = draws

    def __call__(self) -> Tensor:
        z = torch.zeros(len(self.seeds), *self.event_shape, dtype=torch.float64)
        if self.draws:
            z.flatten(1)[[self.draw + 1, -1], 0] = 1
        self.draw += 1
        return z


def _set(i: int, n: int) -> range:
    """Seeds of the i-th set of true samples; solvers use lower ones."""
    return range(10**9 + i * n, 10**9 + (i + 1) * n)


@dataclass(frozen=True, eq=False)
class Flow:
    """The exact probability flow over the levels, computed once for a set of states and kept in a file."""

    denoise: Denoise
    levels: Tensor
    identity: str
    file: Path | None
    known: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        key = f"{self.identity}-{digest(x)}-{len(self.levels) - 1}-{self.levels[-1]:g}"
        if key not in self.known and self.file is not None and self.file.is_file():
            with safe_open(self.file, framework="pt") as file:
                self.known.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        if key not in self.known:
            self.known[key] = runge_kutta(self.denoise, x, self.levels)
            if self.file is not None:
                save_file(self.known, self.file)
        return self.known[key]


def runge_kutta(denoise: Denoise, x: Tensor, levels: Tensor) -> Tensor:
    """dx/dlam = D - x, lam = -log sigma, by the classical method over the levels; then D."""
    for s, t in tqdm(pairwise(levels), total=len(levels) - 1, desc="exact flow", leave=False, disable=None):
        h, middle = (s / t).log(), (s * t).sqrt()
        k1 = denoise(x, s) - x
        k2 = denoise(y := x + h / 2 * k1, middle) - y
        k3 = denoise(y := x + h / 2 * k2, middle) - y
        k4 = denoise(y := x + h * k3, t) - y
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return denoise(x, levels[-1])


def mixture_problem(name: str, data: Path, cache: Path | None, quick: bool) -> Problem:
    mixture = fit(patches(data, "train")[::20], 4, 5) if quick else fitted(data, cache)
    others = held_out(data)
    bound = others.abs().max().item()
    exact, identity = mixture.moments, digest(mixture.covariances)
    statistics = prescore.calibrate(others, data_range=(-bound, bound))
    model = prescore.Denoiser(mixture, others.shape[1:], *EDM_RANGE, data_range=(-bound, bound), dtype=torch.float64)
    levels = geometric(FLOW_STEPS + 1, FLOW_END, EDM_RANGE[1])
    return Sampled(
        name=name,
        denoise=mixture,
        statistics=replace(statistics, model=ModelStatistics(score=score_statistics(model, others[:SCORED]))),
        sigma_min=EDM_RANGE[0],
        sigma_max=EDM_RANGE[1],
        identity=identity,
        true=lambda i, n: mixture.sample(_set(i, n)),
        measures=lambda x: {"frechet": frechet_distance(x, exact)},
        flow=Flow(mixture, levels, identity, None if quick else data.with_name(f"{name}-flow.safetensors")),
    )


def power_law(size: int = 16) -> Problem:
    shape = (1, size, size)
    oracle = Gaussian.power_law(shape, mean=0.0, rms=0.5)
    assert isinstance(oracle.covariance, Frequency)
    power = (oracle.covariance.weights * size**2).expand(1, size, -1)
    square = oracle.covariance.as_matrix(shape).diagonal().reshape(shape)
    moments = Moments(
        count=10**6,
        event_shape=shape,
        axes=2,
        data_range=(-4.0, 4.0),
        mean=oracle.mean,
        mean_square=square,
        power=power,
        power_centred=power,
        minimum=-4.0,
        maximum=4.0,
    )
    return Linear(
        name="power-law",
        denoise=oracle,
        statistics=Statistics(moments=moments),
        sigma_min=EDM_RANGE[0],
        sigma_max=EDM_RANGE[1],
        identity=digest(power),
        oracle=oracle,
    )


def network(name: str, data: Path | None, device: str) -> Problem:
    """A shipped model. Its training images, the array train of an .npz, are needed for distances only."""
    model = prescore.load(name, device=device)
    statistics = prescore.in_range(prescore.load_statistics(name), model.data_range)
    if statistics.model.steps is None:
        raise SystemExit(f"{name}: its statistics are without the errors of steps")
    images = None if data is None else training_images(data, model)
    labels = CLASSES.get(name, {})
    known = 0 if images is None else 2 * len(images) // 3

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        rows = torch.arange(len(x), device=device)
        classes = {key: torch.eye(n, device=device)[rows % n] for key, n in labels.items()}
        with torch.no_grad():
            parts = [slice(i, i + ROWS) for i in range(0, len(x), ROWS)]
            return torch.cat(
                [
                    model(
                        x[part].to(device, torch.float32),
                        sigma.to(device, torch.float32),
                        **{key: value[part] for key, value in classes.items()},
                    )
                    for part in parts
                ]
            ).to(x)

    def true(i: int, n: int) -> Tensor:
        assert images is not None
        if n > len(images) - known:
            raise SystemExit(f"--n: {n}, but only {len(images) - known} images are left for true samples")
        first = known + i * n % (len(images) - known - n + 1)
        return images[first : first + n]

    def measured(reference: Tensor) -> Callable[[Tensor], dict[str, float]]:
        features, spectrum = blocks(reference), prescore.calibrate(reference, data_range=model.data_range)
        return lambda x: {
            "frechet": frechet_distance(blocks(x), features),
            "spectrum": power_spectrum_error(x, spectrum),
        }

    identity = f"{name} {file_digest(find(name))}"
    assert model.sigma_min is not None
    assert model.sigma_max is not None
    levels = geometric(NETWORK_STEPS + 1, model.sigma_min, model.sigma_max)
    return Sampled(
        name=name,
        denoise=denoise,
        statistics=statistics,
        sigma_min=model.sigma_min,
        sigma_max=model.sigma_max,
        identity=identity,
        true=true,
        measures=None if images is None else measured(images[:known]),
        flow=Flow(denoise, levels, identity, None),
        rows=NETWORK_ROWS,
        batch=250,
        floors=4,
    )


def training_images(path: Path, model: prescore.Denoiser) -> Tensor:
    """All of a file in a random order, in the range of the model, float64."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; it is to hold the training images as the array train (.npz)")
    x = load_images(path, key="train", pad=model.event_shape[-1], data_range=model.data_range)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    low, high = model.data_range
    return x.double() if x.is_floating_point() else low + (high - low) * x.double() / 255


def blocks(x: Tensor) -> Tensor:
    """Means of 2x2 blocks."""
    return torch.nn.functional.avg_pool2d(x, 2)


def digest(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()[:12]


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


NETWORKS = tuple(name for name in shipped_models() if name != "mnist-ncsn")  # whose noise range begins at 1
NAMES = (*SOURCES, "power-law", *NETWORKS)


def make_problem(name: str, data: Path | None, cache: Path | None, quick: bool, device: str) -> Problem:
    if name == "power-law":
        return power_law()
    if name in NETWORKS:
        return network(name, data, device)
    return mixture_problem(name, data or Path(f"data/{name}.npz"), cache, quick)
