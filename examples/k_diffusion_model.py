"""prescore's samplers in the place of k-diffusion's: any `model(x, sigma) -> denoised`, any list of sigmas.

The model here is the exact denoiser of a Gaussian whose power falls with frequency; yours is a wrapper of
`k_diffusion.external`. Nothing of k-diffusion is needed.
"""

import torch

import prescore
from prescore.adapters.k_diffusion import sampler
from prescore.oracle import Diagonal, MixtureOracle

VARIANCES = 1 / (1 + torch.arange(64.0).reshape(1, 1, 8, 8))


def main() -> dict[str, float]:
    oracle = MixtureOracle(torch.ones(1), torch.zeros(1, 1, 8, 8), Diagonal(VARIANCES))
    data = oracle.sample(200, torch.Generator().manual_seed(0))
    statistics = prescore.calibrate(data, data_range=(-5, 5))

    sigmas = torch.tensor([14.6, 4.0, 1.2, 0.4, 0.1, 0.0])  # or k_diffusion.sampling.get_sigmas_karras(...)
    x = torch.randn(500, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * sigmas[0]
    exact = x * (VARIANCES / (VARIANCES + sigmas[0] ** 2)).sqrt()  # where the probability flow takes x

    errors = {}
    for name, known in (("edm-euler", None), ("dpmpp-2m", None), ("p-ode-3m", statistics)):
        found = sampler(name, known)(oracle, x, sigmas, disable=True)
        errors[name] = (found - exact).square().mean().sqrt().item()
    return errors


if __name__ == "__main__":
    print(main())
