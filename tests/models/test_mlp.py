import pytest
import torch

from prescore.errors import PrescoreError
from prescore.models.layers import Linear, initialise
from prescore.models.mlp import ScoreMLP


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def awake():
    """A network whose nearly-zero layers are redrawn, so that every input reaches the output."""
    network = ScoreMLP(2, 3, width=8, num_blocks=2, generator=generator())
    for module in network.modules():
        if isinstance(module, Linear):
            module.gain = 1.0
    initialise(network, generator(1))
    return network.eval()


def batch(count=3):
    return torch.randn(count, 3, 2, 2, generator=generator(2)), torch.linspace(-1, 1, count)


def test_output_starts_near_zero_and_has_its_shape():
    out = ScoreMLP(2, 3, width=8, generator=generator())(*batch())
    assert out.shape == (3, 3, 2, 2)
    assert 0 < out.abs().max() < 1e-3


def test_gradient_reaches_every_parameter_and_every_input_every_output():
    network, (x, labels) = awake(), batch()
    network(x, labels).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    jacobian = torch.autograd.functional.jacobian(lambda z: network(z, labels[:1]), x[:1])
    assert (jacobian != 0).all()


@torch.no_grad()
def test_samples_do_not_depend_on_their_batch_mates_and_one_label_serves_all():
    network, (x, labels) = awake().double(), batch()
    x, labels = x.double(), labels.double()
    together = network(x, labels)
    for k in range(3):
        assert torch.allclose(network(x[k : k + 1], labels[k : k + 1])[0], together[k], atol=1e-12)
    assert torch.allclose(network(x, labels[:1]), network(x, labels[:1].expand(3)), atol=1e-12)
    assert not torch.allclose(together[0], network(x[:1], labels[1:2])[0], atol=1e-3)


def test_wrong_width():
    with pytest.raises(PrescoreError, match="width: 7 is not a positive even number"):
        ScoreMLP(2, 3, width=7)
