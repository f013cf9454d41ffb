"""A denoiser of azula, sampled by prescore, and back.

    pip install azula prescore
    python examples/azula_denoiser.py

azula asks for torchvision; where there is none for your torch, `pip install azula --no-deps` is enough.
"""

import torch
from azula.denoise import KarrasDenoiser
from azula.noise import VPSchedule
from azula.sample import DDIMSampler

import prescore
from prescore.adapters.azula import from_azula, to_azula


class Backbone(torch.nn.Module):
    """Yours is a trained network."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * torch.sigmoid(-t).reshape(-1, 1)


torch.manual_seed(0)
theirs = KarrasDenoiser(Backbone(), VPSchedule())
model = from_azula(theirs, event_shape=(3,), sigma_min=0.01, sigma_max=80.0)
statistics = prescore.calibrate_model(model, n=64, trajectories=0)  # no data: from samples of its own
x = prescore.draw(model, n=1000, calls=8, sampler="p-ode-2m", statistics=statistics, progress=False)
print(f"prescore: {tuple(x.shape)}, deviations {x.std(0).numpy().round(3)}")

back = to_azula(model)  # for azula's samplers and its guidance
y = DDIMSampler(back, steps=64, silent=True)(80.0 * torch.randn(1000, 3))
print(f"azula:    {tuple(y.shape)}, deviations {y.std(0).numpy().round(3)}")
