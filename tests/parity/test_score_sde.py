"""The predictors and correctors against steps and runs recorded from the code of Song et al. (score_sde_pytorch).

Data are Gaussian, N(mu, c). In the recorded coordinates x_t the score is -(x_t - m mu) / (m^2 c + std^2), m and std
those of the SDE at the time t. The originals' steps are those of discrete chains, which are not quite at the noise
level at which they call the network; here the levels are the chain's, and the denoiser knows the time.
"""

from dataclasses import dataclass

import pytest
import torch
from support import Replay, reference, relative

from prescore.samplers import AnnealedLangevin, PredictorCorrector
from prescore.samplers.sde import ReverseSDE
from prescore.schedule import VP, GeometricVE, Schedule, SubVP

PRECISIONS = pytest.mark.parametrize(
    ("dtype", "suffix", "limit"), [(torch.float32, "", 1e-5), (torch.float64, "_f64", 1e-9)]
)
SNR = 0.16
SDES = {"ve": (GeometricVE(), 20, 1e-5), "vp": (VP(), 100, 1e-3), "subvp": (SubVP(), 20, 1e-3)}
NOTHING = 1e-12  # a last level so low that the step to it is the predictor's own, not D


class Chain:
    """N discrete levels sigma_0 < ... of a VE or VP model, and the level 0 below them."""

    def __init__(self, kind, N):
        if kind == "ve":
            self.sigmas = 0.01 * 5000 ** torch.linspace(0, 1, N, dtype=torch.float64)
        else:
            self.betas = torch.linspace(0.1 / N, 20 / N, N, dtype=torch.float64)
            self.sigmas = ((1 / (1 - self.betas).cumprod(0)) - 1).sqrt()

    def __call__(self, j):
        return self.sigmas[j], self.sigmas[j - 1] if j else torch.tensor(NOTHING, dtype=torch.float64)


@dataclass(frozen=True)
class Steps(Schedule):
    """A schedule whose every step takes the time 1 / N, as Euler-Maruyama does in the originals."""

    schedule: Schedule
    now: float
    N: int

    t_min, t_max = property(lambda self: self.schedule.t_min), property(lambda self: self.schedule.t_max)

    def sigma(self, t):
        return self.schedule.sigma(t)

    def dsigma(self, t):
        return self.schedule.dsigma(t)

    def ds(self, t):
        return self.schedule.ds(t)

    def scale(self, sigma):
        return self.schedule.scale(sigma)

    def t(self, sigma):
        at_the_start = abs(sigma / self.sigma(self.now) - 1) < 1e-9
        return torch.tensor(self.now if at_the_start else self.now - 1 / self.N, dtype=torch.float64)


class Recorded:
    """The score of a file, and steps in its coordinates x_t by samplers that work in x = x_t / s."""

    def __init__(self, tensors, kind):
        self.mu, self.c, self.schedule = tensors["mu"], tensors["c"], SDES[kind][0]

    def denoiser(self, t, s):
        """D(x, sigma) of the score of x_t = s x at the time t."""
        m, std = self.schedule.s(t), self.schedule.s(t) * self.schedule.sigma(t)

        def denoise(x, sigma):
            score = -(s * x - m * self.mu.to(x)) / (m**2 * self.c.to(x) + std**2)
            return x + sigma**2 * s * score

        return denoise

    def predict(self, sampler, x_t, t, sigma, sigma_next, z):
        s, s_next = self.schedule.scale(sigma), self.schedule.scale(sigma_next)
        return s_next * sampler.predict(self.denoiser(t, s), x_t / s, sigma, sigma_next, Replay([z]))

    def correct(self, sampler, x_t, t, sigma, noise):
        s = self.schedule.scale(sigma)
        return s * sampler.correct(self.denoiser(t, s), x_t / s, sigma, Replay(noise))


def euler_maruyama(recorded, N, x_t, t, z):
    """A step of 1 / N from the time t; what it ends at is only a name, since x_t is wanted."""
    sigma = recorded.schedule.sigma(t)
    sampler = ReverseSDE(predictor="euler-maruyama", schedule=Steps(recorded.schedule, t.item(), N))
    return recorded.predict(sampler, x_t, t, sigma, sigma / 2, z)


def one_step(kind, k, dtype):
    """The file, its score, the state, the time and the index in the chain of its k-th time."""
    tensors = reference(f"score_sde/step-{kind}.safetensors")
    x, t = tensors[f"in/{k}/x"].to(dtype), tensors[f"in/{k}/t"][0].double()
    return tensors, Recorded(tensors, kind), x, t, SDES[kind][1] - 1 - k


TIMES = {"ve": (0, 10, 19), "vp": (0, 50, 99), "subvp": (0, 10, 19)}
# (file, name there): a sampler of the same steps on the chain
ON_THE_CHAIN = {
    ("ve", "reverse_diffusion"): PredictorCorrector(predictor="reverse-diffusion", corrector="none"),
    ("ve", "reverse_diffusion_ode"): PredictorCorrector(predictor="probability-flow", corrector="none"),
    ("ve", "ancestral_sampling"): PredictorCorrector(predictor="ancestral", corrector="none"),
    ("vp", "reverse_diffusion"): ReverseSDE(predictor="reverse-diffusion"),
    ("vp", "reverse_diffusion_ode"): ReverseSDE(predictor="probability-flow"),
    ("vp", "ancestral_sampling"): ReverseSDE(predictor="ancestral"),
}


@PRECISIONS
@pytest.mark.parametrize(("kind", "name", "k"), [(kind, name, k) for kind, name in ON_THE_CHAIN for k in TIMES[kind]])
def test_predictor(kind, name, k, dtype, suffix, limit):
    tensors, recorded, x, t, j = one_step(kind, k, dtype)
    sigma, sigma_next = Chain(kind, SDES[kind][1])(j)
    for noise, end in ((tensors[f"{name}/{k}/noise"][0].to(dtype), "out"), (torch.zeros_like(x), "mean")):
        out = recorded.predict(ON_THE_CHAIN[kind, name], x, t, sigma, sigma_next, noise)
        assert relative(out, tensors[f"{name}/{k}/{end}{suffix}"]) < limit


# The reverse diffusion that the original has for sub-VP is Euler-Maruyama.
IN_TIME = [
    ("ve", "euler_maruyama"),
    ("vp", "euler_maruyama"),
    ("subvp", "euler_maruyama"),
    ("subvp", "reverse_diffusion"),
]


@PRECISIONS
@pytest.mark.parametrize(("kind", "name", "k"), [(kind, name, k) for kind, name in IN_TIME for k in TIMES[kind]])
def test_euler_maruyama(kind, name, k, dtype, suffix, limit):
    tensors, recorded, x, t, _ = one_step(kind, k, dtype)
    out = euler_maruyama(recorded, SDES[kind][1], x, t, tensors[f"{name}/{k}/noise"][0].to(dtype))
    assert relative(out, tensors[f"{name}/{k}/out{suffix}"]) < limit


def langevin(kind, chain, j, **options):
    """The corrector. The factor 1 - beta that its step size has for VP is one of snr^2."""
    factor = 1 - chain.betas[j].item() if kind == "vp" else 1.0
    return PredictorCorrector(snr=SNR * factor**0.5, norm="batch", **options)


@PRECISIONS
@pytest.mark.parametrize(("kind", "k"), [(kind, k) for kind in ("ve", "vp") for k in TIMES[kind]])
def test_langevin_corrector(kind, k, dtype, suffix, limit):
    tensors, recorded, x, t, j = one_step(kind, k, dtype)
    sampler = langevin(kind, Chain(kind, SDES[kind][1]), j, corrector_steps=2)
    out = recorded.correct(sampler, x, t, recorded.schedule.sigma(t), tensors[f"langevin2/{k}/noise"].to(dtype))
    assert relative(out, tensors[f"langevin2/{k}/out{suffix}"]) < limit


def annealed(recorded, x_t, t, noise, factor):
    """Annealed Langevin dynamics with the step size 2 (1 - beta) (snr sigma)^2."""
    sigma = recorded.schedule.sigma(t)
    s = recorded.schedule.scale(sigma)
    sampler = AnnealedLangevin(level_steps=len(noise), denoise=False)
    out, _ = sampler.step(recorded.denoiser(t, s), x_t / s, sigma, torch.zeros(()), 2 * factor * SNR**2, Replay(noise))
    return s * out


@PRECISIONS
@pytest.mark.parametrize(("kind", "k"), [(kind, k) for kind in ("ve", "vp") for k in TIMES[kind]])
def test_annealed_langevin(kind, k, dtype, suffix, limit):
    tensors, recorded, x, t, j = one_step(kind, k, dtype)
    factor = 1 - Chain(kind, SDES[kind][1]).betas[j].item() if kind == "vp" else 1.0
    out = annealed(recorded, x, t, tensors[f"ald2/{k}/noise"].to(dtype), factor)
    assert relative(out, tensors[f"ald2/{k}/out{suffix}"]) < limit


def run(name, dtype):
    """A file, its score, the initial x_t, its times, and an iterator of its draws."""
    kind = name.split("-")[0]
    tensors = reference(f"score_sde/pc-{name}.safetensors")
    noise = iter(tensors["noise"].to(dtype))
    start = next(noise) * (50 if kind == "ve" else 1)
    times = torch.linspace(1, SDES[kind][2], len(tensors["timesteps"]), dtype=dtype)  # float64 times in a float64 run
    return tensors, Recorded(tensors, kind), start, times.double(), noise


@PRECISIONS
@pytest.mark.parametrize("name", ["ve-ancestral", "ve-reverse-langevin", "vp-ancestral", "vp-reverse-langevin"])
def test_whole_run_on_the_chain(name, dtype, suffix, limit):
    """From the recorded noise to the recorded samples, which are the last predictor's mean."""
    kind, predictor, *corrector = name.split("-")
    tensors, recorded, x, times, noise = run(name, dtype)
    chain = Chain(kind, len(times))
    cls = PredictorCorrector if kind == "ve" else ReverseSDE
    sampler = cls(predictor={"reverse": "reverse-diffusion"}.get(predictor, predictor), corrector="none")
    for i, t in enumerate(times):
        j = len(times) - 1 - i
        sigma, sigma_next = chain(j)
        if corrector:
            x = recorded.correct(langevin(kind, chain, j), x, t, sigma, [next(noise)])
        x = recorded.predict(sampler, x, t, sigma, sigma_next, next(noise) * (j > 0))
    assert relative(x, tensors["out" + suffix]) < limit


@PRECISIONS
@pytest.mark.parametrize("name", ["ve-euler", "vp-euler", "subvp-euler"])
def test_whole_run_in_time(name, dtype, suffix, limit):
    tensors, recorded, x, times, noise = run(name, dtype)
    for i, t in enumerate(times):
        x = euler_maruyama(recorded, len(times), x, t, next(noise) * (i < len(times) - 1))
    assert relative(x, tensors["out" + suffix]) < limit


@PRECISIONS
def test_whole_run_of_annealed_langevin(dtype, suffix, limit):
    tensors, recorded, x, times, noise = run("ve-ald", dtype)
    for t in times:
        x = annealed(recorded, x, t, [next(noise)], 1.0)
    assert relative(x, tensors["out" + suffix]) < limit
