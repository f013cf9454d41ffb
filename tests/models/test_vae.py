import math

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.models.vae import VAE, Posterior


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(**changes):
    arguments = {"img_resolution": 8, "in_channels": 1, "latent_channels": 3, "model_channels": 4} | changes
    return VAE(**arguments, generator=generator())


def normal(*shape, seed=1):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "latent_shape", "size"),
    [
        ({"img_resolution": 32, "in_channels": 1, "latent_channels": 6, "channel_mult": (1, 2)}, (6, 8, 8), 384),
        ({"img_resolution": 64, "in_channels": 3, "latent_channels": 8, "channel_mult": (1, 2, 4)}, (8, 8, 8), 512),
    ],
)
def test_the_papers_latents(arguments, latent_shape, size):
    vae = tiny(**arguments)
    x = torch.rand(2, *vae.event_shape, generator=generator(1))
    posterior, logits = vae(x, torch.zeros(2, *latent_shape))
    assert vae.latent_shape == latent_shape
    assert math.prod(latent_shape) == size
    assert posterior.mean.shape == posterior.log_variance.shape == (2, *latent_shape)
    assert logits.shape == x.shape
    assert posterior.kl().shape == (2,)


def test_kl_is_the_integral_of_its_definition():
    """KL = integral of q log(q / p), by the trapezoidal rule in each coordinate, which go by themselves."""
    mean, log_variance = normal(1, 1, 2, 3), normal(1, 1, 2, 3, seed=2)
    std = (log_variance / 2).exp()
    z = mean[..., None] + std[..., None] * torch.linspace(-12, 12, 4001, dtype=torch.float64)
    log_q = torch.distributions.Normal(mean[..., None], std[..., None]).log_prob(z)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z)
    numeric = torch.trapezoid(log_q.exp() * (log_q - log_p), z).sum()
    assert Posterior(mean, log_variance).kl().item() == pytest.approx(numeric.item(), rel=1e-10)


def test_kl_of_the_prior_is_zero_and_of_anything_else_positive():
    zero = torch.zeros(1, 2, 2, 2)
    assert Posterior(zero, zero).kl().item() == 0
    assert Posterior(zero + 0.1, zero).kl().item() > 0
    assert Posterior(zero, zero - 0.1).kl().item() > 0


def test_draws_have_the_posterior_s_moments_and_carry_its_gradient():
    mean, log_variance = torch.tensor([[[[2.0]]]], requires_grad=True), torch.tensor([[[[-1.0]]]], requires_grad=True)
    n = torch.randn(100_000, 1, 1, 1, generator=generator())
    z = Posterior(mean, log_variance).sample(n)
    assert z.mean().item() == pytest.approx(2.0, abs=0.01)
    assert z.std().item() == pytest.approx(math.exp(-0.5), rel=0.01)
    z.square().mean().backward()  # E z^2 = mean^2 + variance
    assert mean.grad.item() == pytest.approx(4.0, rel=0.02)
    assert log_variance.grad.item() == pytest.approx(math.exp(-1), rel=0.02)


def test_gradient_reaches_every_parameter():
    vae = tiny(channel_mult=(1, 2, 2), num_blocks=2)
    with torch.no_grad():  # the residual branches begin at nearly nothing
        for p in vae.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator(3)))
    posterior, logits = vae(torch.rand(2, 1, 8, 8, generator=generator(1)), normal(2, 3, 1, 1).float())
    (logits.square().sum() + posterior.kl().sum()).backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []


@torch.no_grad()
def test_decoding_a_draw_is_what_forward_does():
    vae, x, n = tiny().double(), torch.rand(2, 1, 8, 8, generator=generator(1), dtype=torch.float64), normal(2, 3, 2, 2)
    posterior, logits = vae(x, n)
    image = vae.decode(vae.encode(x).sample(n))
    assert torch.allclose(image, logits.sigmoid(), atol=1e-12)
    assert ((image > 0) & (image < 1)).all()
    assert torch.equal(posterior.mean, vae.encode(x).mean)


@torch.no_grad()
def test_images_do_not_depend_on_their_batch_mates():
    vae, x = tiny().double(), torch.rand(3, 1, 8, 8, generator=generator(1), dtype=torch.float64)
    together = vae.encode(x)
    for k in range(3):
        alone = vae.encode(x[k : k + 1])
        assert torch.allclose(alone.mean[0], together.mean[k], atol=1e-12)
        assert torch.allclose(vae.decode(alone.mean)[0], vae.decode(together.mean)[k], atol=1e-12)


def test_weights_are_a_function_of_the_generator_alone():
    before = torch.get_rng_state()
    a, b = tiny().state_dict(), tiny().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"img_resolution": 6}, "img_resolution: 6 cannot be halved for each of the 2 levels .* multiple of 4"),
        ({"channel_mult": ()}, "at least one level"),
        ({"model_channels": 13}, "model_channels: a layer of 13 channels"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(PrescoreError, match=message):
        tiny(**arguments)
