"""Parameters from a posterior that sbi has learned, in ten network calls instead of 500.

    pip install sbi prescore
    python examples/sbi_posterior.py

sbi trains the network and says what the prior allows; prescore draws. The task is linear and Gaussian, so that the
posterior is known, and its five parameters have unlike scales.
"""

import time

import torch
from sbi.inference import NPSE
from torch.distributions import MultivariateNormal

from prescore.adapters.sbi import log_prob, sample_posterior

torch.manual_seed(0)
scales = torch.tensor([1.0, 10.0, 0.1, 1.0, 3.0])
prior = MultivariateNormal(torch.zeros(5), torch.diag(scales**2))
theta = prior.sample((2000,))
x = theta + 0.5 * scales * torch.randn(2000, 5)  # what is observed

inference = NPSE(prior, sde_type="ve")
inference.append_simulations(theta, x).train(max_num_epochs=30)
posterior = inference.build_posterior()

observed = x[0]
start = time.perf_counter()
theirs = posterior.sample((1000,), x=observed, show_progress_bars=False)
middle = time.perf_counter()
ours = sample_posterior(posterior, 1000, x=observed, calls=10, seed=0)
end = time.perf_counter()

mean, deviation = observed / 1.25, scales * (0.25 / 1.25) ** 0.5  # of the true posterior
print(
    f"sbi, 500 steps:     {middle - start:.2f} s, deviations {(theirs.std(0) / deviation).numpy().round(2)} of the true"
)
print(f"prescore, 10 calls: {end - middle:.2f} s, deviations {(ours.std(0) / deviation).numpy().round(2)}")
print(f"log density of the true parameters: {log_prob(posterior, theta[:1], x=observed).item():.2f}")
