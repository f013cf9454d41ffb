import copy
import math

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.models.ncsnpp import NCSNpp

SMALL = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,), "num_scales": 10, "init_scale": 1.0}
VARIANTS = [
    {},
    {"progressive": "output_skip", "progressive_input": "input_skip"},
    {"progressive": "output_skip", "progressive_input": "input_skip", "progressive_combine": "cat"},
    {"progressive": "residual"},
    {"resblock_type": "ddpm", "progressive": "residual"},
    {"resblock_type": "ddpm", "resamp_with_conv": False, "fir": False},
    {
        "fir": False,
        "progressive_input": "none",
        "embedding_type": "positional",
        "centered": True,
        "skip_rescale": False,
    },
    {"fir_kernel": (1, 2, 1), "embedding_type": "positional"},
]


def network(**arguments):
    return NCSNpp(8, 2, **(SMALL | arguments), generator=torch.Generator().manual_seed(0)).eval()


def inputs(embedding="fourier"):
    x = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.02, 1.0, 40.0]) if embedding == "fourier" else torch.tensor([9, 4, 0])


@pytest.mark.parametrize("arguments", VARIANTS)
def test_every_weight_is_used_and_trained(arguments):
    net = network(**arguments)
    x, level = inputs(arguments.get("embedding_type", "fourier"))
    out = net(x, level)
    assert out.shape == x.shape
    out.square().sum().backward()
    for name, parameter in net.named_parameters():
        if name == "all_modules.0.W":
            assert not parameter.requires_grad
        elif not name.endswith("NIN_1.b"):  # a constant added to all keys changes no softmax
            assert parameter.grad.any(), name


@pytest.mark.parametrize("arguments", VARIANTS)
@torch.no_grad()
def test_samples_do_not_mix_and_memory_formats_agree(arguments):
    net = network(**arguments).double()
    x, level = inputs(arguments.get("embedding_type", "fourier"))
    x = x.double()
    together = net(x, level)
    for k in range(len(x)):
        assert torch.allclose(net(x[k : k + 1], level[k : k + 1])[0], together[k], rtol=1e-10, atol=1e-10)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    found = last(x.contiguous(memory_format=torch.channels_last), level)
    assert torch.allclose(found, together, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_one_noise_level_for_all():
    net, (x, _) = network(), inputs()
    assert torch.allclose(net(x, torch.tensor([2.0])), net(x, torch.full((3,), 2.0)), atol=1e-6)


@torch.no_grad()
def test_data_range_and_division_by_sigma():
    net, (x, level) = network(), inputs()
    plain = network(scale_by_sigma=False)
    assert torch.allclose(net(x, level), plain(x, level) / level[:, None, None, None])
    assert torch.allclose(network(centered=True)(2 * x - 1, level), net(x, level))
    labels = torch.tensor([0, 3, 9])
    net, plain = (network(embedding_type="positional", scale_by_sigma=s) for s in (True, False))
    assert torch.allclose(net(x, labels), plain(x, labels) / net.sigmas[labels].float()[:, None, None, None])


@torch.no_grad()
def test_half_precision_keeps_the_noise_level():
    net, (x, level) = network(), inputs()
    exact, frequencies = net(x, level), net.all_modules[0].W.clone()
    half = net.to(torch.bfloat16)
    half.all_modules[0].W.data = frequencies
    found = half(x.bfloat16(), level)
    assert found.dtype == torch.float32  # h / sigma would lose digits again
    assert ((found - exact).norm() / exact.norm()).item() < 0.02


def test_noise_levels():
    net = network(sigma_min=0.01, sigma_max=50, num_scales=10)
    assert net.sigmas.dtype == torch.float64
    ratios = net.sigmas[1:] / net.sigmas[:-1]
    assert torch.allclose(ratios, torch.full_like(ratios, (0.01 / 50) ** (1 / 9)))
    assert net.sigmas[0].item() == pytest.approx(50)


def test_initial_weights():
    net = NCSNpp(8, 2, **(SMALL | {"nf": 64, "init_scale": 0.0}), generator=torch.Generator().manual_seed(0))
    state = net.state_dict()
    block, attention = "all_modules.4", "all_modules.8"
    fan = 9 * 64
    assert state[f"{block}.Conv_0.weight"].std().item() == pytest.approx(math.sqrt(1 / fan), rel=0.02)
    assert state[f"{block}.Dense_0.weight"].std().item() == pytest.approx(math.sqrt(2 / (256 + 64)), rel=0.02)
    assert state[f"{block}.Conv_1.weight"].std().item() == pytest.approx(math.sqrt(1e-10 / fan), rel=0.02)
    assert state[f"{attention}.NIN_0.W"].std().item() == pytest.approx(math.sqrt(0.1 / 128), rel=0.02)
    assert state[f"{attention}.NIN_3.W"].std().item() == pytest.approx(math.sqrt(1e-10 / 128), rel=0.02)
    assert state["all_modules.0.W"].std().item() == pytest.approx(16, rel=0.2)
    biases = [value for name, value in state.items() if name.endswith((".bias", ".b"))]
    assert len(biases) > 20
    assert not any(bias.any() for bias in biases)


def test_initial_weights_use_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b = network(), network()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@torch.no_grad()
def test_built_without_memory_and_filled():
    original = network()
    with torch.device("meta"):
        net = NCSNpp(8, 2, **SMALL).eval()
    assert all(parameter.is_meta for parameter in net.parameters())
    assert net.sigmas.is_meta
    net.load_state_dict(original.state_dict(), assign=True)
    assert torch.equal(net(*inputs()), original(*inputs()))


@torch.no_grad()
def test_dropout_only_while_training():
    net = network(dropout=0.5)
    assert torch.equal(net(*inputs()), net(*inputs()))
    net.train()
    assert not torch.equal(net(*inputs()), net(*inputs()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resblock_type": "bigan"}, "resblock_type: unknown value 'bigan'; did you mean biggan?"),
        ({"progressive": "input_skip"}, "progressive: unknown value 'input_skip'"),
        ({"progressive_input": "skip"}, "progressive_input: unknown value 'skip'"),
        ({"progressive_combine": "add"}, "progressive_combine: unknown value 'add'"),
        ({"embedding_type": "none"}, "embedding_type: unknown value 'none'"),
        (
            {"ch_mult": (1, 1, 1, 1, 1)},
            "image_size: 8 cannot be halved between the 5 levels of ch_mult; take",
        ),
        (
            {"ch_mult": ()},
            "image_size: 8 cannot be halved between the 0 levels of ch_mult; take a multiple of 1 and at least one",
        ),
        ({"dropout": 7}, r"dropout: 7 is no probability; take a number in \[0, 1]"),
        ({"dropout": math.nan}, "dropout: nan is no probability"),
        ({"nf": 2}, "a layer of 2 channels cannot be split into 1 groups"),
        ({"fir_kernel": (1,)}, r"fir_kernel: \[1\] is no filter"),
        ({"fir_kernel": (1, -1)}, r"fir_kernel: \[1, -1\] is no filter"),
        ({"sigma_min": 0}, "sigma_min 0, sigma_max 50.0 and num_scales 10"),
        ({"num_scales": 1}, "at least 2 scales are needed"),
    ],
)
def test_arguments_that_are_wrong(arguments, message):
    with pytest.raises(PrescoreError, match=message):
        NCSNpp(8, 2, **(SMALL | arguments))
