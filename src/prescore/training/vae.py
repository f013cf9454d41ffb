"""The loss of a variational autoencoder: reconstruction and KL divergence, in nats (see `prescore.models.vae`).

    loss = -log p(x | z) + beta KL(q(z | x) | N(0, I)),    z ~ q(z | x)

With beta = 1 this is minus the evidence lower bound. Smaller values keep more of the image and leave the latents
further from white noise, which is what models of the latents usually ask for; larger ones do the opposite.

Sources: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, https://arxiv.org/abs/1312.6114, eq. 10;
Higgins et al., "beta-VAE", ICLR 2017, https://openreview.net/forum?id=Sy2fzU9gl, eq. 4.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn

from prescore.errors import check_choice
from prescore.models.vae import VAE

LIKELIHOODS = ("bernoulli", "gaussian")


class Terms(NamedTuple):
    """What the loss is made of, for each image, in nats, (B,)."""

    reconstruction: Tensor
    kl: Tensor


def reconstruction_loss(logits: Tensor, x: Tensor, likelihood: str = "bernoulli", pixel_std: float = 0.1) -> Tensor:
    """-log p(x | z) of each image, (B,), in nats.

    Args:
        logits: of the decoder's mean m, (B, C, H, W).
        x: images in [0, 1], of the same shape.
        likelihood: "bernoulli", -sum(x log m + (1 - x) log(1 - m)), exact for black and white pixels; or "gaussian",
            |x - m|^2 / (2 s^2) + C H W log(s sqrt(2 pi)).
        pixel_std: s of the Gaussian.

    Raises:
        PrescoreError: unknown likelihood.
    """
    check_choice("likelihood", likelihood, LIKELIHOODS)
    if likelihood == "bernoulli":
        each = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    else:
        each = ((x - logits.sigmoid()) / pixel_std) ** 2 / 2 + math.log(pixel_std * math.sqrt(2 * math.pi))
    return each.flatten(1).sum(1)


def elbo_terms(vae: VAE, x: Tensor, n: Tensor, likelihood: str = "bernoulli", pixel_std: float = 0.1) -> Terms:
    """Both terms of minus the evidence lower bound, with one draw z = mean + std n; n ~ N(0, I), (B, *latent_shape)."""
    posterior, logits = vae(x, n)
    return Terms(reconstruction_loss(logits, x, likelihood, pixel_std), posterior.kl())


def vae_loss(
    vae: VAE, x: Tensor, n: Tensor, *, beta: float = 1.0, likelihood: str = "bernoulli", pixel_std: float = 0.1
) -> Tensor:
    """Mean over the batch of reconstruction + beta KL, in nats a pixel value; a 0-d tensor.

    Divided by the number of pixel values, it is of the same size for images of any size.
    """
    terms = elbo_terms(vae, x, n, likelihood, pixel_std)
    return (terms.reconstruction + beta * terms.kl).mean() / x[0].numel()
