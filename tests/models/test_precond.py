import pytest
import torch
from torch import nn

from prescore.models import EDMPrecond, IDDPMPrecond, VEPrecond, VPPrecond
from prescore.schedule import IDDPM, VP

SIGMA = torch.tensor([0.03, 0.5, 7.0, 60.0], dtype=torch.float64)
PRECONDS = [EDMPrecond, VEPrecond, VPPrecond, IDDPMPrecond]


class Constant(nn.Module):
    """A network whose output is 1 everywhere, in twice the channels; it remembers its last arguments."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.one = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x, noise_labels, class_labels, augment_labels):
        self.seen = x, noise_labels, class_labels, augment_labels
        return self.one * torch.ones_like(x.repeat(1, 2, 1, 1))


@pytest.mark.parametrize("precond", PRECONDS)
def test_output_combines_skip_and_network(precond):
    network = Constant()
    denoise = precond(network)
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    c_skip, c_out, c_in, c_noise = denoise.coefficients(SIGMA)
    out = denoise(x, SIGMA, "class", "augment")

    def wide(c):
        return torch.as_tensor(c).reshape(-1, 1, 1, 1)

    assert torch.allclose(out, wide(c_skip) * x + wide(c_out), atol=1e-12)
    assert torch.allclose(network.seen[0], wide(c_in) * x, atol=1e-12)
    assert torch.allclose(network.seen[1], c_noise.double(), atol=1e-12)
    assert network.seen[2:] == ("class", "augment")


def test_edm_gives_network_and_target_unit_variance():
    """EDM, appendix B.6: with data of variance sd^2, Var[c_in x] = 1 and Var[(x0 - c_skip x)/c_out] = 1."""
    sd = 0.3
    c_skip, c_out, c_in, c_noise = EDMPrecond(Constant(), sd).coefficients(SIGMA)
    assert torch.allclose(c_in**2 * (SIGMA**2 + sd**2), torch.ones(4, dtype=torch.float64))
    target = ((1 - c_skip) ** 2 * sd**2 + c_skip**2 * SIGMA**2) / c_out**2
    assert torch.allclose(target, torch.ones(4, dtype=torch.float64))
    assert torch.allclose(c_noise, SIGMA.log() / 4)


def test_noise_conditions():
    assert torch.allclose(VEPrecond(Constant()).coefficients(SIGMA)[3], (SIGMA / 2).log())
    t = torch.tensor([0.01, 0.4, 1.0], dtype=torch.float64)
    assert torch.allclose(VPPrecond(Constant()).coefficients(VP().sigma(t))[3], 999 * t)
    u = IDDPM().u
    levels = u[torch.tensor([0, 17, 998, 1000])]
    assert IDDPMPrecond(Constant()).coefficients(levels)[3].tolist() == [999, 982, 1, -1]


def test_a_scalar_sigma_and_the_dtype_of_the_weights():
    network = Constant(torch.float32)
    denoise = EDMPrecond(network, 0.5)
    x = torch.ones(3, 2, 4, 4, dtype=torch.float64)
    out = denoise(x, torch.tensor(2.0))
    assert out.dtype == torch.float64
    assert network.seen[0].dtype == network.seen[1].dtype == torch.float32
    assert torch.equal(out, denoise(x, torch.full((3,), 2.0)))


def test_parameters_carry_the_prefix_of_published_checkpoints():
    assert list(EDMPrecond(Constant()).state_dict()) == ["model.one"]
    assert list(IDDPMPrecond(Constant()).state_dict()) == ["u", "model.one"]
