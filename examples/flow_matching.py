"""A flow matching model from its loss to samples: `from_flow` makes a denoiser of any network that predicts n - x0.

The network is a small one of three layers, trained for some seconds on points of two moons, as torchcfm would.
"""

import torch
from torch import nn

import prescore
from prescore.denoiser import from_flow


def moons(n: int, generator: torch.Generator) -> torch.Tensor:
    angle, is_lower = torch.rand(n, generator=generator) * torch.pi, torch.rand(n, generator=generator) < 0.5
    x = torch.stack([angle.cos(), angle.sin()], 1)
    return torch.where(is_lower[:, None], torch.tensor([1.0, 0.5]) - x, x) - torch.tensor([0.5, 0.25])


class Velocity(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x_t, t[:, None].to(x_t)], 1))


def main(steps: int = 1500) -> torch.Tensor:
    torch.manual_seed(0)
    generator, network = torch.Generator().manual_seed(0), Velocity()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        x0, n, t = moons(256, generator), torch.randn(256, 2, generator=generator), torch.rand(256, generator=generator)
        x_t = (1 - t)[:, None] * x0 + t[:, None] * n
        loss = (network(x_t, t) - (n - x0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model = prescore.Denoiser(from_flow(network, time_scale=1), (2,), data_range=(-2, 2))
    return prescore.draw(model, n=500, calls=10, progress=False)


if __name__ == "__main__":
    x = main()
    print(f"mean {x.mean(0).tolist()}, deviation {x.std(0).tolist()}")
