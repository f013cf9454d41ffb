"""Posteriors of sbi's kind of tasks, drawn by sbi's own sampler and by prescore: quality, seconds, network calls.

    python benchmarks/sbi_tasks.py [--tasks linear,moons,slcp] [--kinds ve,vp,subvp] [--n 1000] [--observations 5]

needs sbi (pip install sbi). A network is trained for each task and kind on 10 000 simulations, a quarter of a minute to
a minute on one core. For each of some observations n samples are compared with as many from the posterior: exact for
the linear Gaussian task and the two moons, by sequential Monte Carlo for SLCP.

C2ST is the accuracy with which a classifier tells both sets apart in five-fold cross-validation, 0.5 at best; what two
sets of the true posterior reach is "true". The network's own fault is in all other rows.
"""

import argparse
import contextlib
import io
import itertools
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prescore.adapters.sbi import sample_posterior

SIMULATIONS = 10_000
OWN_STEPS = 500  # sbi's default


@dataclass(frozen=True)
class Task:
    """A prior, a simulator, and samples of the true posterior.

    Attributes:
        prior: a distribution of torch or sbi.
        simulate: theta (N, d) -> x (N, k).
        posterior: (x (k,), n) -> theta (n, d).
    """

    prior: torch.distributions.Distribution
    simulate: Callable[[Tensor], Tensor]
    posterior: Callable[[Tensor, int], Tensor]


def linear() -> Task:
    """Ten parameters, N(0, 0.1) each, seen with noise of the same variance: sbibm's linear Gaussian task."""
    d, variance = 10, 0.1
    prior = torch.distributions.MultivariateNormal(torch.zeros(d), variance * torch.eye(d))

    def posterior(x: Tensor, n: int) -> Tensor:
        return x / 2 + math.sqrt(variance / 2) * torch.randn(n, d)

    return Task(prior, lambda theta: theta + math.sqrt(variance) * torch.randn_like(theta), posterior)


def moons() -> Task:
    """Two parameters with a posterior of two crescents: sbibm's two moons."""
    from sbi.utils import BoxUniform

    def simulate(theta: Tensor) -> Tensor:
        a = math.pi * (torch.rand(len(theta)) - 0.5)
        r = 0.1 + 0.01 * torch.randn(len(theta))
        moon = torch.stack([r * a.cos() + 0.25, r * a.sin()], 1)
        turned = torch.stack([-(theta[:, 0] + theta[:, 1]).abs(), theta[:, 1] - theta[:, 0]], 1) / math.sqrt(2)
        return moon + turned

    def posterior(x: Tensor, n: int) -> Tensor:
        """Exact: the moon that led to x, solved for theta, with either sign, inside the prior."""
        parts: list[Tensor] = []
        while sum(map(len, parts)) < n:
            a = math.pi * (torch.rand(4 * n) - 0.5)
            r = 0.1 + 0.01 * torch.randn(4 * n)
            left = x - torch.stack([r * a.cos() + 0.25, r * a.sin()], 1)  # -|t0 + t1| / sqrt 2, (t1 - t0) / sqrt 2
            sign = torch.where(torch.rand(4 * n) < 0.5, -1.0, 1.0)
            total, difference = sign * left[:, 0] * math.sqrt(2), left[:, 1] * math.sqrt(2)
            theta = torch.stack([(total - difference) / 2, (total + difference) / 2], 1)
            parts.append(theta[(left[:, 0] <= 0) & (theta.abs() <= 1).all(1)])
        return torch.cat(parts)[:n]

    return Task(BoxUniform(-torch.ones(2), torch.ones(2)), simulate, posterior)


def slcp() -> Task:
    """Five parameters of a two-dimensional Gaussian that is seen four times: sbibm's simple likelihood, complex
    posterior, with four modes."""
    from sbi.utils import BoxUniform

    def factors(theta: Tensor) -> tuple[Tensor, Tensor]:
        s1, s2, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, theta[:, 4].tanh()
        zero = torch.zeros_like(s1)
        rows = [torch.stack([s1, zero], 1), torch.stack([rho * s2, s2 * (1 - rho**2).sqrt()], 1)]
        return theta[:, :2], torch.stack(rows, 1)

    def simulate(theta: Tensor) -> Tensor:
        mean, L = factors(theta)
        z = torch.randn(len(theta), 4, 2)
        return (mean[:, None] + (L[:, None] @ z[..., None])[..., 0]).flatten(1)

    def log_likelihood(theta: Tensor, x: Tensor) -> Tensor:
        mean, L = factors(theta.double())
        z = torch.linalg.solve_triangular(L, (x.double().reshape(1, 4, 2) - mean[:, None]).mT, upper=False)
        return -z.square().sum((1, 2)) / 2 - 4 * L.diagonal(dim1=1, dim2=2).log().sum(1)

    def posterior(x: Tensor, n: int) -> Tensor:
        """By sequential Monte Carlo from the prior, in one of the four modes: the signs of two parameters are free."""
        theta = 6 * torch.rand(4 * n, 5) - 3
        theta[:, 2:4] = theta[:, 2:4].abs()
        powers = [0.0, *torch.logspace(-4, 0, 40).tolist()]
        for before, power in itertools.pairwise(powers):
            weights = torch.softmax((power - before) * log_likelihood(theta, x), 0)
            theta = theta[torch.multinomial(weights, len(theta), replacement=True)]
            for share in (1.0, 0.6, 0.3, 0.1) * 3:
                moved = theta + share * theta.std(0) * torch.randn_like(theta)
                gain = power * (log_likelihood(moved, x) - log_likelihood(theta, x))
                is_inside = (moved.abs() <= 3).all(1) & (moved[:, 2:4] >= 0).all(1)
                taken = is_inside & (torch.rand(len(theta)).log() < gain)
                theta = torch.where(taken[:, None], moved, theta)
        signs = torch.where(torch.rand(len(theta), 2) < 0.5, -1.0, 1.0)
        theta[:, 2:4] *= signs
        return theta[torch.randperm(len(theta))[:n]]

    return Task(BoxUniform(-3 * torch.ones(5), 3 * torch.ones(5)), simulate, posterior)


TASKS = {"linear": linear, "moons": moons, "slcp": slcp}


def accuracy(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """C2ST of two sets."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    a = a[a.isfinite().all(1)]
    mean, std = b.mean(0), b.std(0)
    rows = ((torch.cat([a, b]) - mean) / std).numpy()
    labels = [0] * len(a) + [1] * len(b)
    width = 10 * rows.shape[1]
    network = MLPClassifier((width, width), max_iter=100, random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(cross_val_score(network, rows, labels, cv=folds).mean())


def trained(task: Task, kind: str, epochs: int) -> Any:
    """A posterior of sbi."""
    from sbi.inference import NPSE

    torch.manual_seed(0)
    theta = task.prior.sample((SIMULATIONS,))
    inference = NPSE(prior=task.prior, sde_type=kind).append_simulations(theta, task.simulate(theta))
    with contextlib.redirect_stdout(io.StringIO()):
        return inference.build_posterior(inference.train(max_num_epochs=epochs))


def table(name: str, kind: str, given: argparse.Namespace) -> None:
    """Train, draw, measure and print."""
    task = TASKS[name]()
    start = time.perf_counter()
    posterior = trained(task, kind, given.epochs)
    print(f"\n{name}, {kind}: trained in {time.perf_counter() - start:.0f} s\n", flush=True)
    torch.manual_seed(1)
    observations = task.simulate(task.prior.sample((given.observations,)))
    numbers = [int(calls) for calls in given.calls.split(",")]

    def own(steps: int) -> Callable[[Tensor, int], Tensor]:
        return lambda x, k: posterior.sample((given.n,), x=x, steps=steps, show_progress_bars=False)

    def ours(calls: int) -> Callable[[Tensor, int], Tensor]:
        return lambda x, k: sample_posterior(
            posterior, given.n, x=x, calls=calls, sampler=given.sampler, seed=10_000 * k
        )

    methods = {
        "true": lambda x, k: task.posterior(x, given.n),
        f"sbi, {OWN_STEPS} steps": own(OWN_STEPS),
        f"sbi, {2 * numbers[-1]} steps": own(2 * numbers[-1]),
        **{f"{given.sampler}, {calls} calls after the pilot": ours(calls) for calls in numbers},
    }
    rows: dict[str, list[tuple[float, float, float]]] = {label: [] for label in methods}
    made = [0]
    posterior.vector_field_estimator.register_forward_hook(lambda *_: made.__setitem__(0, made[0] + 1))
    for k, x in enumerate(observations):
        true = task.posterior(x, given.n)
        for label, draw in methods.items():
            made[0], start = 0, time.perf_counter()
            samples = draw(x, k)
            seconds = time.perf_counter() - start
            rows[label].append((accuracy(samples, true), float(made[0]), seconds))
            if lost := int((~samples.isfinite().all(1)).sum()):
                print(f"{label}, observation {k}: {lost} of {given.n} samples are not finite, and left out", flush=True)
    print("| | C2ST | network calls | seconds |\n|-|-|-|-|")
    for label, values in rows.items():
        scores, calls_made, times = (torch.tensor(column) for column in zip(*values, strict=True))
        error = scores.std().item() / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
        print(
            f"| {label} | {scores.mean():.3f} ± {error:.3f} | {calls_made.mean():.0f} | {times.mean():.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="linear,moons,slcp")
    parser.add_argument("--kinds", default="ve")
    parser.add_argument("--calls", default="5,10")
    parser.add_argument("--sampler", default="p-ode-3m")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--observations", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in given.tasks.split(","):
        for kind in given.kinds.split(","):
            table(name, kind, given)


if __name__ == "__main__":
    main()
