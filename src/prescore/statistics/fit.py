"""Weights of a multistep solver, fitted to trajectories that are known.

In the coordinates of the Gaussian model of the data, X = x - mu, an exponential multistep solver moves by

    X(t) = k X(s) + sum_j w_j R_j,

R_j the remainders of the last calls (`prescore.gaussian.flow`). Its weights are those of a polynomial, which knows
nothing of the network. Where the states X*(t) of trajectories are known, what the step leaves of them is regressed on
what it is made of, in each group g of coordinates of like variance:

    X*(t) - X(t) = b_g X(s) + sum_j a_gj R_j,        k -> k + b_g,   w_j -> w_j + a_gj.

The regression is a ridge regression. With Phi the columns R_1, .., X of all coordinates of the group in one trajectory,
each scaled to the mean square 1, y what the step leaves, and means over the trajectories,

    (a, b) = (mean Phi'Phi + strength)^-1 mean Phi'y,

which is 0, the textbook step, as the strength grows. Coordinates of one trajectory depend on each other, so the
strength is chosen by cross-validation over whole trajectories: those of a fold are predicted by the weights of all
others. Where nothing is gained in that way the strength is infinite, and the step is exactly the textbook's.

A regression on what does not tell all has less energy than there is. After the last step each group is multiplied by a
gain, the root of the ratio of the energies of the known ends and of those reached.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

STRENGTHS = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)  # and infinite
POINTS = 3  # remainders that a step is made of
TOLERANCE = 1e-3  # relative, between noise levels that are called the same
CONSTANT = 1e-9  # share of the largest variance, below which coordinates are alike


@dataclass(frozen=True, eq=False, kw_only=True)
class FittedWeights:
    """What was fitted for one number of steps. Tensors are float64.

    Attributes:
        levels: the noise levels, the last one 0, (T + 1,).
        edges: decreasing variances between the groups: coordinates of the first have more than edges[0], (G - 1,).
        weights: by step and group, what is added to the weights of the remainders, newest first, and of X,
            (T, G, POINTS + 1).
        gains: of the groups, after the last step, (G,).
        errors: by solver its error of the state, the mean over some of the trajectories of the root mean square, in
            units of the data: of "p-fit" by weights fitted to others, of others on the levels that serve them.
        count: number of trajectories that the weights were fitted to.
        model: name of the model.
    """

    levels: Tensor
    edges: Tensor
    weights: Tensor
    gains: Tensor
    errors: Mapping[str, float]
    count: int
    model: str = ""

    def is_for(self, sigma_min: float, sigma_max: float) -> bool:
        """Whether they can be used for this noise range: it starts where they do, and ends no higher."""
        highest, lowest = self.levels[0].item(), self.levels[-2].item()
        return abs(sigma_max / highest - 1) <= TOLERANCE and sigma_min <= lowest * (1 + TOLERANCE)

    def scaled(self, a: float) -> "FittedWeights":
        """Those for data that are multiplied by a, and so their noise."""
        errors = {name: a * error for name, error in self.errors.items()}
        return replace(self, levels=a * self.levels, edges=a**2 * self.edges, errors=errors)


def groups_of(variances: Tensor, edges: Tensor) -> Tensor:
    """The group of each coordinate, whole numbers like `variances`; `edges` as those of `FittedWeights`."""
    return len(edges) - torch.bucketize(variances, edges.flip(0))


def group_edges(variances: Tensor, groups: int) -> Tensor:
    """Edges between at most so many groups of coordinates of like variance, as those of `FittedWeights`.

    Large variances are rare, and small ones many: groups are equal steps of the mean of two scales from 0 to 1, the
    share of coordinates that have a larger variance, and the logarithm of the variance.
    """
    C = variances.double().flatten().sort(descending=True).values
    log = C.clamp(min=max(CONSTANT * C[0].item(), 1e-300)).log()
    depth = (log[0] - log) / (log[0] - log[-1]).clamp(min=1e-9)
    share = torch.arange(len(C), dtype=torch.float64) / len(C)
    group = ((depth + share) / 2 * groups).long().clamp(max=groups - 1)
    return C[1:][(group.diff() > 0) & (C.diff() < 0)]


def cross_fit(
    columns: Tensor, target: Tensor, groups: Tensor, count: int, folds: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Ridge regression in each group, the strength of each by cross-validation over trajectories.

    Args:
        columns: what is to predict, (K, m, p), for K trajectories of m coordinates.
        target: what is to be predicted, (K, m).
        groups: of each coordinate, (m,), `count` of them.
        folds: the trajectories that are held out together, at least two rows of whole numbers.

    Returns:
        Weights from all trajectories, (count, p), and from those outside of each fold, (folds, count, p).
    """
    K, _, p = columns.shape
    gram, moment = columns.new_zeros(K, count, p, p), columns.new_zeros(K, count, p)
    for g in range(count):
        phi, y = columns[:, groups == g], target[:, groups == g, None]
        gram[:, g], moment[:, g] = phi.mT @ phi, (phi.mT @ y)[..., 0]
    scale = gram.mean(0).diagonal(dim1=-2, dim2=-1).clamp(min=1e-300).rsqrt()
    gram, moment = gram * scale[..., None] * scale[:, None], moment * scale
    A, b = (torch.stack([values[fold].sum(0) for fold in folds]) for values in (gram, moment))  # of each fold
    outside = K - torch.tensor([len(fold) for fold in folds], dtype=columns.dtype)
    own = ridge((A.sum(0) - A) / outside.reshape(-1, 1, 1, 1), (b.sum(0) - b) / outside.reshape(-1, 1, 1))
    # By how much the squares of what is left fall on the trajectories that are held out, (strengths, count).
    gain = (2 * (own * b).sum(-1) - torch.einsum("sfgp,fgpq,sfgq->sfg", own, A, own)).sum(1)
    best, group = gain.argmax(0), torch.arange(count)
    helps = (gain[best, group] > 0).to(columns.dtype)[:, None] * scale
    return ridge(gram.mean(0), moment.mean(0))[best, group] * helps, own[best, :, group].movedim(0, 1) * helps


def ridge(gram: Tensor, moment: Tensor) -> Tensor:
    """(gram + strength)^-1 moment for each of STRENGTHS, (S, ..., p), of matrices (..., p, p) and vectors (..., p)."""
    strengths = torch.tensor(STRENGTHS, dtype=gram.dtype).reshape(-1, *(1,) * gram.ndim)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
    right = moment[..., None].expand(len(STRENGTHS), *moment.shape, 1)
    return torch.linalg.solve(gram + strengths * eye, right)[..., 0]
