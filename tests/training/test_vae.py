import math
from dataclasses import replace

import pytest
import torch

from prescore.checkpoints.autoencoder import load_autoencoder
from prescore.errors import PrescoreError
from prescore.models.vae import VAE
from prescore.training.config import TrainingConfig
from prescore.training.data import TrainingData
from prescore.training.loop import RunOptions, train
from prescore.training.recipes import find_recipe, with_options
from prescore.training.vae import VAESettings, elbo_terms, reconstruction_loss, vae_loss


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def vae_of_one_number():
    """2 x 2 pixels, described by one number; the weights are redrawn so that it says much about them."""
    vae = VAE(2, 1, 1, model_channels=4, channel_mult=(1,), generator=generator()).double()
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=generator(1), dtype=torch.float64))
    return vae


GRID = torch.linspace(-15, 15, 30_001, dtype=torch.float64)
NORMAL = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)


@torch.no_grad()
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("pixels", [(0.0, 1.0, 1.0, 0.0), (1.0, 1.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.0)])
def test_elbo_is_below_the_evidence_by_the_error_of_the_posterior(likelihood, pixels):
    """log p(x) and KL(q | p(z | x)) by integration over the one latent number."""
    vae, x = vae_of_one_number(), torch.tensor(pixels, dtype=torch.float64).reshape(1, 1, 2, 2)
    z, n = GRID.reshape(-1, 1, 1, 1), GRID.reshape(-1, 1, 1, 1)
    x_all = x.expand(len(GRID), -1, -1, -1)
    log_joint = NORMAL.log_prob(GRID) - reconstruction_loss(vae.logits(z), x_all, likelihood, 0.5)
    evidence = torch.trapezoid(log_joint.exp(), GRID).log().item()

    terms = elbo_terms(vae, x_all, n, likelihood, 0.5)
    weight = NORMAL.log_prob(GRID).exp()  # E over n ~ N(0, 1), also by integration
    elbo = -torch.trapezoid(weight * (terms.reconstruction + terms.kl), GRID).item()

    mean, log_variance = (part.item() for part in vae.encode(x))
    log_q = torch.distributions.Normal(mean, math.exp(log_variance / 2)).log_prob(GRID)
    gap = torch.trapezoid(log_q.exp() * (log_q - log_joint + evidence), GRID).item()
    assert gap > 1e-3
    assert elbo == pytest.approx(evidence - gap, abs=1e-6)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_likelihoods_are_those_of_their_distributions(likelihood):
    logits = torch.randn(3, 1, 2, 2, generator=generator(), dtype=torch.float64)
    x = (torch.rand(3, 1, 2, 2, generator=generator(1)) < 0.5).double()
    distribution = {
        "bernoulli": torch.distributions.Bernoulli(logits=logits),
        "gaussian": torch.distributions.Normal(logits.sigmoid(), 0.3),
    }[likelihood]
    expected = -distribution.log_prob(x).sum((1, 2, 3))
    assert torch.allclose(reconstruction_loss(logits, x, likelihood, 0.3), expected, rtol=1e-12)
    with pytest.raises(PrescoreError, match="likelihood: unknown value 'poisson'"):
        reconstruction_loss(logits, x, "poisson")


def test_loss_is_the_weighted_sum_per_pixel_value():
    vae, x = vae_of_one_number(), torch.rand(5, 1, 2, 2, generator=generator(2), dtype=torch.float64)
    n = torch.randn(5, 1, 1, 1, generator=generator(3), dtype=torch.float64)
    terms = elbo_terms(vae, x, n)
    expected = (terms.reconstruction + 0.3 * terms.kl).mean() / 4
    assert vae_loss(vae, x, n, beta=0.3).item() == pytest.approx(expected.item(), rel=1e-12)


def test_training_learns_to_reconstruct():
    """Squares at random places: after a hundred steps less is lost than with the best constant picture."""
    vae = VAE(8, 1, 2, model_channels=8, channel_mult=(1,), num_blocks=0, generator=generator())
    optimizer = torch.optim.Adam(vae.parameters(), lr=5e-3)
    g = generator(1)

    def batch(count=32):
        x = torch.zeros(count, 1, 8, 8)
        for image, (row, column) in zip(x, torch.randint(0, 6, (count, 2), generator=g).tolist(), strict=True):
            image[0, row : row + 3, column : column + 3] = 1
        return x

    def noise(count=32):
        return torch.randn(count, *vae.latent_shape, generator=g)

    for _ in range(100):
        optimizer.zero_grad()
        vae_loss(vae, batch(), noise()).backward()
        optimizer.step()
    x = batch(500)
    m = x.mean(0).clamp(1e-6, 1 - 1e-6)
    constant = -(m * m.log() + (1 - m) * (1 - m).log()).sum().item()
    with torch.no_grad():
        terms = elbo_terms(vae, x, noise(500))
    assert terms.reconstruction.mean().item() < constant / 2
    assert (terms.reconstruction + terms.kl).mean().item() < constant


def pictures(count=40):
    return TrainingData((torch.rand(count, 1, 8, 8, generator=generator(5)) * 255).to(torch.uint8))


TINY = {"latent_channels": 2, "model_channels": 4, "num_blocks": 0}
SHORT = TrainingConfig(steps=4, batch_size=8, warmup=0, cooldown=0)
QUIET = RunOptions(progress=False, name="dots", checkpoint_every=2)


def test_the_recipe_learns_and_stores_an_autoencoder(tmp_path):
    settings, _ = with_options(find_recipe("vae"), TINY)
    result = train(settings.task(pictures()), SHORT, tmp_path, QUIET)
    autoencoder, arguments = load_autoencoder(result.model)
    assert autoencoder.latent_shape == (2, 2, 2)
    assert arguments == {"img_resolution": 8, "in_channels": 1, "channel_mult": [1, 2]} | TINY
    untrained = settings.task(pictures()).build(generator(0)).state_dict()
    assert any(
        not torch.allclose(value, untrained[name], atol=1e-4) for name, value in autoencoder.state_dict().items()
    )


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    task = with_options(find_recipe("vae"), TINY | {"flip": True})[0].task(pictures())
    whole = train(task, SHORT, tmp_path / "a", QUIET)
    train(task, replace(SHORT, steps=2), tmp_path / "b", QUIET)
    resumed = train(task, SHORT, tmp_path / "b", QUIET)
    a, b = (load_autoencoder(result.model)[0].state_dict() for result in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_preview_shows_examples_and_their_reconstructions():
    task = VAESettings(**TINY).task(pictures())
    network = task.build(generator()).eval().requires_grad_(False)
    shown = task.preview(network, 6, seed=0)
    assert shown.shape == (6, 1, 8, 8)
    assert torch.allclose(shown[3:], network.decode(network.encode(shown[:3]).mean))


def test_objective_is_the_loss_of_the_settings():
    task = VAESettings(**TINY, beta=0.2, likelihood="gaussian", pixel_std=0.4).task(pictures())
    network = task.build(generator())
    batch = task.batch(task.draw(4, generator(1)).part(0, 4))
    expected = vae_loss(network, batch["x"], batch["n"], beta=0.2, likelihood="gaussian", pixel_std=0.4)
    assert task.objective(network)(0, **batch).item() == expected.item()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood: unknown value 'poisson'"),
        ({"beta": 0.0}, "beta: 0.0 is not a positive number"),
        ({"pixel_std": 0.2}, "pixel_std: belongs to likelihood gaussian"),
        ({"latent_channels": 0}, "latent_channels: 0 is less than 1"),
    ],
)
def test_wrong_settings(given, message):
    with pytest.raises(PrescoreError, match=message):
        with_options(find_recipe("vae"), given)


def test_classes_are_refused():
    data = TrainingData(pictures(3).examples, labels=torch.arange(3))
    with pytest.raises(PrescoreError, match="labels: the autoencoder takes no classes; leave them out"):
        VAESettings(**TINY).task(data)
