import json

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.grid import geometric
from prescore.models.ncsn import NCSN, TOWERS, NCSNv2

NETWORKS = ["ncsn", *TOWERS]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(name, channels=1, **arguments):
    settings = {"ngf": 4, "num_classes": 5, "generator": generator()} | arguments
    if name == "ncsn":
        return NCSN(channels, **settings)
    return NCSNv2(channels, sigma_begin=10, variant=name, **settings)


def batch(size=3, channels=1, side=16, dtype=torch.float32):
    x = torch.rand(size, channels, side, side, generator=generator(1), dtype=dtype)
    return x, torch.arange(size) % 5


@pytest.mark.parametrize("side", [28, 32, 19])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_images_of_any_size(name, channels, side):
    x, labels = batch(2, channels, side)
    out = tiny(name, channels)(x, labels)
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.std() > 1e-3


def test_images_that_are_too_small():
    x, labels = batch(2, side=15)
    tiny("deeper")(x, labels)
    with pytest.raises(PrescoreError, match="images of 15x15 pixels: this network needs 16x16 at least"):
        tiny("deepest")(x, labels)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_reaches_every_parameter(name):
    network = tiny(name)
    x, labels = batch(5)
    network(x, labels).square().sum().backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_samples_do_not_depend_on_their_batch_mates(name):
    network = tiny(name).double()
    x, labels = batch(3, dtype=torch.float64)
    together = network(x, labels)
    for k in range(3):
        assert torch.allclose(network(x[k : k + 1], labels[k : k + 1]), together[k : k + 1], rtol=1e-10, atol=0)
    one = network(x, labels[1:2])
    assert torch.allclose(one[1], together[1], rtol=1e-10, atol=0)
    assert torch.allclose(one, network(x, labels[1].expand(3)), rtol=1e-10, atol=0)


@torch.no_grad()
def test_what_the_label_does():
    x, _ = batch()
    first, last = torch.tensor([0]), torch.tensor([4])
    network = tiny("ncsnv2")
    assert torch.equal(network.sigmas, geometric(5, 0.01, 10).float())
    assert torch.allclose(network(x, last) * 0.01, network(x, first) * 10, rtol=1e-5)
    network = tiny("ncsn")
    for module in network.modules():
        if hasattr(module, "embed"):
            module.embed.weight[4] = module.embed.weight[0]
    assert torch.equal(network(x, first), network(x, last))
    network.normalizer.embed.weight[4] += 1
    assert not torch.allclose(network(x, first), network(x, last), rtol=0.1)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_range_of_the_images(name):
    x, labels = batch()
    assert torch.equal(tiny(name)(x, labels), tiny(name, rescaled=True)(2 * x - 1, labels))


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_weights(name):
    state = torch.get_rng_state()
    network = tiny(name, ngf=32, num_classes=40)
    assert torch.equal(torch.get_rng_state(), state)
    weights = network.state_dict()
    assert all(
        torch.equal(value, weights[key]) for key, value in tiny(name, ngf=32, num_classes=40).state_dict().items()
    )
    other = tiny(name, ngf=32, num_classes=40, generator=generator(1)).state_dict()
    assert not torch.equal(other["end_conv.bias"], weights["end_conv.bias"])
    norms = {"gamma": [], "alpha": [], "beta": []}
    for key, value in weights.items():
        if key.endswith("embed.weight"):
            for values, part in zip(norms.values(), value.chunk(3, dim=1), strict=True):
                values.append(part.flatten())
        elif (kind := key.rpartition(".")[2]) in norms:
            norms[kind].append(value)
        elif key.endswith("weight"):
            bound = value[0].numel() ** -0.5
            assert 0.99 * bound < value.abs().max() <= bound, key
            assert value.mean().abs() < 0.1 * bound, key
    gamma, alpha, beta = (torch.cat(values) for values in norms.values())
    assert not beta.any()
    for values in (gamma, alpha):
        assert values.mean().item() == pytest.approx(1, abs=0.005)
        assert values.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ngf": 1}, "channels 1 and ngf 1: at least 1 and 2 are needed"),
        ({"channels": 0}, "channels 0 and ngf 4"),
        ({"num_classes": 1}, "1 noise levels"),
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_wrong_arguments(name, arguments, message):
    with pytest.raises(PrescoreError, match=message):
        tiny(name, **arguments)


def test_wrong_levels_and_towers():
    with pytest.raises(PrescoreError, match="sigma_min < sigma_max"):
        NCSNv2(1, ngf=2, sigma_begin=0.01, sigma_end=1)
    with pytest.raises(PrescoreError, match="variant: unknown value 'deep'; did you mean deeper"):
        NCSNv2(1, ngf=2, variant="deep")


def test_the_same_network_from_stored_arguments():
    arguments = json.loads(json.dumps({"channels": 3, "ngf": 4, "num_classes": 6, "variant": "deeper"}))
    with torch.device("meta"):
        outline = NCSNv2(**arguments)
    network = NCSNv2(**arguments, generator=generator())
    outline.load_state_dict(network.state_dict(), assign=True)
    x, labels = batch(2, 3)
    assert torch.equal(outline(x, labels), network(x, labels))
