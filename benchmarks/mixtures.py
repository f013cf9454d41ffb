"""Gaussian mixtures fitted to patches of images: data whose denoiser is known exactly, and is nearly as hard as images.

Grey 16x16 patches are fitted by the EM algorithm with K full covariances,

    r_ik proportional to w_k N(x_i; m_k, C_k),    w_k = mean_i r_ik,    m_k = sum_i r_ik x_i / sum_i r_ik,
    C_k = (sum_i r_ik (x_i - m_k)(x_i - m_k)^T + PRIOR C) / (sum_i r_ik + PRIOR) + RIDGE I

C the covariance of all patches: a component of few patches has a full covariance too (PRIOR further patches like the
average, the mode under an inverse Wishart prior). It starts from the patches at the smallest angle to K random ones,
the mean of each patch removed. Fitted is the part `train` of a file; statistics for a sampler come from its
part `test`, other photographs, so that the sampler knows nothing of the mixture but what such images have in common.

The denoiser, P_k = (C_k + sigma^2)^-1 and y_k = P_k (x - m_k), is

    D = x - sigma^2 sum_k p(k | x) y_k,
    log p(k | x) = log w_k - (log det(C_k + sigma^2) + (x - m_k)^T y_k) / 2 + const.

All P_k x are one matrix product, P comes from eigendecompositions made once, and is kept for the levels used last.
`prescore.oracle.MixtureOracle` says the same, five times slower. Float64 throughout.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from prescore.noise import NoiseSource
from prescore.oracle import Full, MixtureOracle

SIZE, STRIDE = 16, 8
COMPONENTS, ITERATIONS, PRIOR, RIDGE = 40, 30, 10.0, 1e-5
# Of whole images, whose covariances are 16 times as large: so many of them, and less of the rest.
WHOLE, WHOLE_COMPONENTS, WHOLE_ITERATIONS = 5000, 10, 8
KEPT = 840_000_000  # bytes of the levels used last
CHUNK = 500  # rows at a time, so that all P_k x of them stay in the cache of the processor

SOURCES = {
    "natural": (
        "arrays train and test, uint8 (N, 32, 32, 3), patches of two sets of photographs, such as those of the Debian "
        "packages plasma-workspace-wallpapers and mate-backgrounds reduced by 4"
    ),
    "topography": (
        "arrays train and test, float32 (N, 32, 32, 1), standardised patches of a map of heights, such as ETOPO5 of "
        "the Debian package ferret-datasets"
    ),
    "fashion-mnist": (
        "arrays train and test, uint8 (N, 28, 28, 1), pictures of clothes, such as those of the Debian package "
        "dataset-fashion-mnist"
    ),
}


@dataclass(frozen=True, eq=False)
class Mixture:
    """sum_k weights[k] N(means[k], covariances[k]) of grey images, with a fast exact denoiser.

    Args:
        weights: (K,), of sum 1.
        means: (K, 1, H, W).
        covariances: (K, d, d), d = H W, positive definite.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    kept: dict[float, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (K, d) and vectors (K, d, d) of the covariances."""
        values, vectors = torch.linalg.eigh(self.covariances)
        return values, vectors

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x], x (B, 1, H, W) in float64, sigma 0-d."""
        rows = x.flatten(1)
        out = torch.empty_like(rows)
        for part, log_p, Px, c in self._parts(rows, float(sigma)):
            p = torch.softmax(log_p, 1)
            out[part] = rows[part] - float(sigma) ** 2 * ((p.unsqueeze(1) @ Px).squeeze(1) - p @ c)
        return out.reshape(x.shape)

    def log_prob(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        """log of w_k N(x; m_k, C_k + sigma^2) for each k, (B, K)."""
        return torch.cat([log_p for _, log_p, _, _ in self._parts(x.flatten(1), sigma)])

    def sample(self, seeds: Sequence[int]) -> Tensor:
        """One exact sample for each seed, (n, 1, H, W)."""
        values, vectors = self.eigen
        edges = self.weights.cumsum(0)[:-1]
        component = torch.searchsorted(edges, NoiseSource(seeds, ()).uniform(), right=True)
        z = NoiseSource(seeds, values.shape[1:], draw=1)()
        x = self.means.flatten(1)[component]
        for k in component.unique().tolist():
            rows = component == k
            x[rows] += (values[k].sqrt() * z[rows]) @ vectors[k].mT
        return x.reshape(-1, *self.means.shape[1:])

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Exact mean (d,) and covariance (d, d)."""
        means = self.means.flatten(1)
        mean = self.weights @ means
        r = means - mean
        return mean, torch.einsum("k,kde->de", self.weights, self.covariances) + (self.weights * r.mT) @ r

    @property
    def oracle(self) -> MixtureOracle:
        """The same distribution by the library's own formulas."""
        return MixtureOracle(self.weights, self.means, Full(self.covariances))

    def _parts(self, rows: Tensor, sigma: float) -> Iterable[tuple[slice, Tensor, Tensor, Tensor]]:
        """For each chunk its slice, log(w_k N(x; m_k, C_k + sigma^2)) (b, K), P_k x (b, K, d); and P_k m_k (K, d)."""
        P, c, constant = self._at(sigma)
        buffer = torch.empty(CHUNK, P.shape[1], dtype=P.dtype)
        for first in range(0, len(rows), CHUNK):
            part = slice(first, min(first + CHUNK, len(rows)))
            x = rows[part]
            Px = torch.mm(x, P, out=buffer[: len(x)]).unflatten(1, c.shape)
            yield part, constant - (Px @ x.unsqueeze(2)).squeeze(2) / 2 + x @ c.mT, Px, c

    def _at(self, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """P_k side by side (d, K d), P_k m_k (K, d), and what of log(w_k N(x; m_k, ...)) does not depend on x (K,)."""
        if sigma not in self.kept:
            values, vectors = self.eigen
            while len(self.kept) >= max(1, KEPT // (8 * vectors.numel())):
                del self.kept[next(iter(self.kept))]
            shifted, means = values + sigma**2, self.means.flatten(1)
            P = (vectors / shifted.unsqueeze(1)) @ vectors.mT
            c = torch.einsum("kde,ke->kd", P, means)
            log_det = shifted.log().sum(1) + shifted.shape[1] * math.log(2 * math.pi)
            constant = self.weights.log() - (log_det + (means * c).sum(1)) / 2
            self.kept[sigma] = P.transpose(0, 1).reshape(P.shape[1], -1).contiguous(), c, constant
        return self.kept[sigma]


def fit(x: Tensor, components: int = COMPONENTS, iterations: int = ITERATIONS, seed: int = 0) -> Mixture:
    """The mixture that EM finds for patches x, (N, 1, H, W), float64."""
    rows = x.flatten(1)
    chosen = (NoiseSource([seed], (components,)).uniform()[0] * len(rows)).long()
    shape = torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)
    r = torch.nn.functional.one_hot((shape @ shape[chosen].mT).argmax(1), components).double()
    prior = PRIOR * rows.mT.cov()

    def maximise(r: Tensor) -> Mixture:
        total = r.sum(0)
        means = (r.mT @ rows) / total[:, None]
        covariances = RIDGE * torch.eye(rows.shape[1], dtype=rows.dtype).repeat(components, 1, 1)
        for k in range(components):
            seen = r[:, k] > 1e-9
            d = (rows[seen] - means[k]) * r[seen, k, None].sqrt()
            covariances[k] += (d.mT @ d + prior) / (total[k] + PRIOR)
        return Mixture(total / len(rows), means.reshape(-1, *x.shape[1:]), covariances)

    for _ in tqdm(range(iterations), desc="EM", leave=False, disable=None):
        r = torch.softmax(maximise(r).log_prob(rows), 1)
    return maximise(r)


def patches(path: Path, part: str, stride: int = STRIDE) -> Tensor:
    """Grey patches of the images of one part of a file, (N, 1, SIZE, SIZE) float64; bytes become [-1, 1].

    Images of 32 pixels (or at least 24) are cut at offsets 0 and `stride`, at 0 alone if it is 16.
    """
    if not path.is_file():
        what = SOURCES.get(path.stem, "arrays train and test of images (N, H, W, C)")
        raise SystemExit(f"{path}: no such file; it is to hold {what}. Say where it is with --data")
    with np.load(path) as file:
        images = torch.from_numpy(file[part])
    offsets = [0] if stride >= SIZE else [0, stride]
    cut = [_grey(images)[:, i : i + SIZE, j : j + SIZE] for i in offsets for j in offsets]
    return torch.stack(cut, 1).reshape(-1, 1, SIZE, SIZE)


def whole(path: Path, part: str) -> Tensor:
    """The images of one part of a file as they are, grey, (N, 1, H, W) float64; bytes become [-1, 1]."""
    with np.load(path) as file:
        return _grey(torch.from_numpy(file[part])).unsqueeze(1)


def _grey(images: Tensor) -> Tensor:
    return images.double().mean(-1) / 127.5 - 1 if images.dtype == torch.uint8 else images.double().mean(-1)


def held_out(path: Path) -> Tensor:
    """Patches of the part `test`, as `patches`: one of images of 32 pixels, which are cut from larger ones anywhere; of
    others all four, since it matters where in the picture a patch lies."""
    x = patches(path, "test", SIZE)
    with np.load(path) as file:
        return x if file["test"].shape[1] == 2 * SIZE else patches(path, "test")


def fitted(path: Path, cache: Path | None = None) -> Mixture:
    """The mixture of the part `train` of a file, read from the cache or fitted (minutes) and written to it."""
    return _kept(cache or path.with_name(f"{path.stem}-mixture.safetensors"), lambda: fit(patches(path, "train")))


def fitted_whole(path: Path) -> Mixture:
    """The mixture of few components of the whole images of the part `train`, kept beside the file as `fitted` does."""
    return _kept(
        path.with_name(f"{path.stem}-whole-mixture.safetensors"),
        lambda: fit(whole(path, "train")[:WHOLE], WHOLE_COMPONENTS, WHOLE_ITERATIONS),
    )


def _kept(cache: Path, make: Callable[[], Mixture]) -> Mixture:
    if not cache.is_file():
        mixture = make()
        content = {"weights": mixture.weights, "means": mixture.means, "covariances": mixture.covariances}
        save_file({key: value.contiguous() for key, value in content.items()}, cache)
    return Mixture(**load_file(cache))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fit a Gaussian mixture to patches of images and say how well it fits")
    parser.add_argument("--data", type=Path, default=Path("data/natural.npz"))
    parser.add_argument("--cache", type=Path, help="by default beside the data, NAME-mixture.safetensors")
    options = parser.parse_args(arguments)
    mixture = fitted(options.data, options.cache)
    one = fit(patches(options.data, "train"), components=1, iterations=1)
    print(f"{len(mixture.weights)} components, weights {mixture.weights.min():.4f} to {mixture.weights.max():.4f}")
    for part in ("train", "test"):
        x = patches(options.data, part, SIZE)
        nats = [m.log_prob(x).logsumexp(1).mean().item() / x[0].numel() for m in (mixture, one)]
        print(f"{part}: log-likelihood {nats[0]:.3f} nats a pixel; one Gaussian {nats[1]:.3f}")
    x, sigma = mixture.sample(range(100)), torch.tensor(0.3, dtype=torch.float64)
    noisy = x + sigma * NoiseSource(range(100), x.shape[1:], draw=2)()
    error = (mixture(noisy, sigma) - mixture.oracle(noisy, sigma)).abs().max().item()
    print(f"largest difference to prescore.oracle.MixtureOracle: {error:.1e}")


if __name__ == "__main__":
    main()
