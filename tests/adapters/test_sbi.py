"""Posteriors of sbi: a stand-in with an exact score in sbi's convention, and sbi itself where it is installed."""

import math
from contextlib import chdir

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Uniform

from prescore import PrescoreError, draw, plan
from prescore.adapters.sbi import denoiser_of, log_prob, posterior_statistics, sample_posterior
from prescore.gaussian import gaussian

D = 4
SCALE = torch.tensor([1.0, 20.0, 0.1, 3.0]).double()
Q = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
PRIOR = SCALE[:, None] * (0.5 * torch.eye(D).double() + 0.5) * SCALE  # correlated
NOISE = torch.diag((0.3 * SCALE) ** 2)  # of x = theta + noise
COVARIANCE = torch.linalg.inv(torch.linalg.inv(PRIOR) + torch.linalg.inv(NOISE))
GAIN = COVARIANCE @ torch.linalg.inv(NOISE)
X = torch.tensor([0.5, -10.0, 0.1, 2.0])
MEAN = GAIN @ X.double()


class Estimator:
    """The exact score of p(theta | x) of a linear Gaussian task, in the form of sbi's `ConditionalScoreEstimator`."""

    SCORE_DEFINED = True
    input_shape, condition_shape = torch.Size([D]), torch.Size([D])
    t_min, t_max = 1e-3, 1.0
    mean_0, std_0 = torch.zeros(D), PRIOR.diag().sqrt().float()
    compose_enabled = False

    def __init__(self, kind):
        self.kind = kind

    def mean_t_fn(self, times):
        if self.kind == "ve":
            return torch.ones_like(times).unsqueeze(-1)
        return torch.exp(-0.25 * times**2 * 9.99 - 0.5 * times * 0.01).unsqueeze(-1)

    def std_fn(self, times):
        if self.kind == "ve":
            return (1e-4 * (1e6) ** times).unsqueeze(-1)
        variance = 1 - torch.exp(-0.5 * times**2 * 9.99 - times * 0.01)
        return (variance if self.kind == "subvp" else variance.sqrt()).unsqueeze(-1)

    def to_z(self, theta):
        return (theta - 1) / 2

    def score(self, input, condition, t):
        m, s = (f(t).double() for f in (self.mean_t_fn, self.std_fn))
        mean, covariance = condition.double() @ GAIN.mT, COVARIANCE
        if self.compose_enabled:
            mean, covariance = (mean - self._theta_shift) / self._theta_scale, COVARIANCE / 4
        total = m[..., None] ** 2 * covariance + s[..., None] ** 2 * torch.eye(D).double()
        return -torch.linalg.solve(total, input.double() - m * mean).to(input)


class Composed(Estimator):
    """The same on z = (theta - 1) / 2."""

    compose_enabled = True
    _theta_shift, _theta_scale = torch.ones(D).double(), torch.full((D,), 2.0).double()
    mean_0, std_0 = torch.zeros(1), PRIOR.diag().sqrt().float() / 2


class Posterior:
    def __init__(self, kind="vp", prior=None, composed=False):
        self.vector_field_estimator = (Composed if composed else Estimator)(kind)
        self.prior = MultivariateNormal(torch.zeros(D), PRIOR.float()) if prior is None else prior
        self.default_x = X


@pytest.mark.parametrize("kind", ["ve", "vp", "subvp"])
def test_the_denoiser_is_exact(kind):
    model = denoiser_of(Posterior(kind), X)
    estimator = Estimator(kind)
    x = 10 * torch.randn(3, D, generator=torch.Generator().manual_seed(1)).double()
    for t in (0.01, 0.3, 0.99):
        time = torch.tensor([t]).double()
        sigma = (estimator.std_fn(time) / estimator.mean_t_fn(time)).squeeze()
        gain = COVARIANCE @ torch.linalg.inv(COVARIANCE + sigma**2 * torch.eye(D).double())
        torch.testing.assert_close(model(x, sigma), MEAN + (x - MEAN) @ gain.mT, rtol=1e-7, atol=1e-7)
    together = model(x, torch.full((3,), sigma.item()).double())
    torch.testing.assert_close(together, model(x, sigma), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("kind", ["ve", "vp", "subvp"])
def test_ten_calls_give_the_posterior(kind, composed):
    theta = sample_posterior(Posterior(kind, composed=composed), 4000, calls=10).double()
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(COVARIANCE), (theta - MEAN).mT, upper=False).mT
    assert white.mean(0).abs().max() < 0.08  # 4 / sqrt(4000) = 0.063
    assert (white.mT.cov() - torch.eye(D)).abs().max() < 0.12
    assert theta.dtype == torch.float64
    assert sample_posterior(Posterior(kind, composed=composed), 2).dtype == torch.float32


def test_a_start_that_is_named():
    """From noise alone `ddim` draws no pilot, and from the pilot's Gaussian model it starts near the posterior."""
    noise, gaussian = (sample_posterior(Posterior(), 2000, sampler="ddim", start=s) for s in ("noise", "gaussian"))
    torch.testing.assert_close(noise, sample_posterior(Posterior(), 2000, sampler="ddim"))
    off = [((x.double().mean(0) - MEAN) / COVARIANCE.diag().sqrt()).abs().max().item() for x in (noise, gaussian)]
    assert off[1] < min(0.1, off[0])


def test_the_pilot_measures_the_full_covariance():
    model = denoiser_of(Posterior())
    statistics = posterior_statistics(model, n=4000, calls=20)
    reference = gaussian(statistics)
    assert reference.label == "covariance"
    found = reference.covariance.as_matrix((D,)) / torch.outer(COVARIANCE.diag().sqrt(), COVARIANCE.diag().sqrt())
    true = COVARIANCE / torch.outer(COVARIANCE.diag().sqrt(), COVARIANCE.diag().sqrt())
    torch.testing.assert_close(found, true, rtol=0, atol=0.1)
    assert plan(model, sampler="p-ode-2m", calls=8, statistics=statistics).settings["basis"] == "covariance"


def test_a_sample_depends_on_its_seed_alone_and_lies_in_the_prior():
    box = Independent(Uniform(MEAN.float() - 0.5 * SCALE.float(), MEAN.float() + 10 * SCALE.float()), 1)
    posterior = Posterior(prior=box)
    theta = sample_posterior(posterior, 60, seed=3)
    assert box.support.check(theta).all()
    assert not box.support.check(sample_posterior(posterior, 60, seed=3, reject=False)).all()
    statistics = posterior_statistics(denoiser_of(posterior), seed=3)
    some = sample_posterior(posterior, 5, seed=23, statistics=statistics)
    torch.testing.assert_close(some, sample_posterior(posterior, 60, seed=3, statistics=statistics)[20:25])


def test_a_prior_that_forbids_all_is_said():
    box = Independent(Uniform(MEAN.float() + 1e3 * SCALE.float(), MEAN.float() + 2e3 * SCALE.float()), 1)
    with pytest.raises(PrescoreError, match="3 of 3 samples still lie outside the support of the prior"):
        sample_posterior(Posterior(prior=box), 3, calls=5)


@pytest.mark.parametrize("composed", [False, True])
def test_densities(composed):
    true = MultivariateNormal(MEAN, COVARIANCE)
    theta = true.sample((5,))
    posterior = Posterior("ve", composed=composed)
    estimator = posterior.vector_field_estimator  # that knows the posterior's own moments at the highest noise
    estimator.mean_0 = estimator.to_z(MEAN) if composed else MEAN
    estimator.std_0 = COVARIANCE.diag().sqrt() / (2 if composed else 1)
    found = log_prob(posterior, theta, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, true.log_prob(theta), rtol=0, atol=0.02)
    box = Independent(Uniform(MEAN.float(), MEAN.float() + SCALE.float()), 1)
    outside = log_prob(Posterior(prior=box), MEAN[None] - 1)
    assert outside.item() == -math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: denoiser_of(object()), "posterior: a object without the score of an NPSE given"),
        (
            lambda: denoiser_of(Posterior(), torch.zeros(2, D)),
            r"x: shape \(2, 4\) given; one observation of shape \(4,\)",
        ),
        (lambda: sample_posterior(Posterior(), 0), "n: 0 samples"),
        (lambda: log_prob(Posterior(), torch.zeros(3)), r"theta: shape \(3,\) given"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(PrescoreError, match=message):
        call()


def test_without_an_observation():
    posterior = Posterior()
    posterior.default_x = None
    with pytest.raises(PrescoreError, match="x: no observation given"):
        denoiser_of(posterior)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An NPSE of each kind, hardly trained: only its functions matter."""
    inference = pytest.importorskip("sbi.inference", reason="sbi is not installed")
    torch.manual_seed(0)
    prior = MultivariateNormal(torch.zeros(D), PRIOR.float())
    theta = prior.sample((200,))
    x = theta + 0.3 * SCALE.float() * torch.randn(200, D)
    made = {}
    for kind in ("ve", "vp", "subvp"):
        with chdir(tmp_path_factory.mktemp("sbi")):  # where it keeps a log
            npse = inference.NPSE(prior, sde_type=kind, show_progress_bars=False)
            made[kind] = npse.build_posterior(npse.append_simulations(theta, x).train(max_num_epochs=1))
    return made


@pytest.mark.parametrize("kind", ["ve", "vp", "subvp"])
def test_parity_with_sbi(trained, kind):
    """The score of sbi from our denoiser, and its density."""
    posterior, x = trained[kind], X.float()
    model = denoiser_of(posterior, x)
    posterior.set_default_x(x)
    posterior.potential_fn.set_x(x[None], x_is_iid=False)
    estimator = posterior.vector_field_estimator
    theta = posterior.prior.sample((6,))
    for t in (0.05, 0.4, 0.95):
        time = torch.tensor([t])
        m, s = estimator.mean_t_fn(time).double().item(), estimator.std_fn(time).double().item()
        theirs = posterior.potential_fn.gradient(theta * m, time)
        sigma = torch.tensor(s / m).double()
        x0 = theta.double() + sigma**2 * m * theirs.double()
        torch.testing.assert_close(model(theta, sigma.float()), x0.float(), rtol=1e-5, atol=1e-5)
    density = posterior.log_prob(theta[:2])
    torch.testing.assert_close(log_prob(posterior, theta[:2]).float(), density, rtol=1e-3, atol=0.02)
    assert sample_posterior(posterior, 3, x=x, calls=5).isfinite().all()
    assert draw(model, n=2, sampler="dpmpp-2m", calls=5, progress=False).isfinite().all()
