import math

import pytest
import torch

from prescore.errors import PrescoreError
from prescore.models import SongUNet
from prescore.models.layers import Conv2d, initialise

VARIANTS = {
    "ddpmpp": {},
    "ncsnpp": {
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "encoder_type": "residual",
        "resample_filter": (1, 3, 3, 1),
    },
    "skip": {"encoder_type": "skip", "decoder_type": "skip"},
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(**arguments):
    settings = {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (4,), "dropout": 0.0}
    return SongUNet(8, 2, 3, **(settings | arguments), generator=generator())


def awake(network):
    """The network with its nearly-zero layers redrawn, so that every input reaches the output."""
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.gain = 1.0
    initialise(network, generator(1))
    return network.eval()


def batch(size=3):
    return torch.randn(size, 2, 8, 8, generator=generator(2)), torch.linspace(-1, 1, size)


@pytest.mark.parametrize("name", VARIANTS)
def test_output_starts_near_zero_and_has_its_shape(name):
    out = tiny(**VARIANTS[name])(*batch())
    assert out.shape == (3, 3, 8, 8)
    assert 0 < out.abs().max() < 1e-3


def test_patches_are_folded_into_channels_and_back():
    """The network of patches is the plain one of the folded picture, resolutions counted in patches."""
    folded = awake(SongUNet(8, 8, 12, model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,)))
    patched = SongUNet(
        16, 2, 3, model_channels=8, channel_mult=(1, 2), num_blocks=1, attn_resolutions=(4,), patch_size=2
    ).eval()
    patched.load_state_dict(folded.state_dict())
    x = torch.randn(3, 2, 16, 16, generator=generator(2))
    squares = x.reshape(3, 2, 8, 2, 8, 2).permute(0, 1, 3, 5, 2, 4).reshape(3, 8, 8, 8)
    expected = folded(squares, torch.ones(3)).reshape(3, 3, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(3, 3, 16, 16)
    torch.testing.assert_close(patched(x, torch.ones(3)), expected)
    with pytest.raises(PrescoreError, match="patch_size: 3; it has to divide the resolution 8"):
        tiny(patch_size=3)


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_reaches_every_parameter(name):
    network = awake(tiny(label_dim=3, augment_dim=2, **VARIANTS[name]))
    x, labels = batch()
    network(x, labels, torch.eye(3), torch.ones(3, 2)).square().sum().backward()
    silent = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_samples_do_not_depend_on_their_batch_mates(name):
    network, (x, labels) = awake(tiny(**VARIANTS[name])).double(), batch()
    together = network(x.double(), labels.double())
    for k in range(len(x)):
        alone = network(x[k : k + 1].double(), labels[k : k + 1].double())
        assert torch.allclose(alone[0], together[k], atol=1e-6)


@torch.no_grad()
def test_one_noise_label_serves_the_whole_batch():
    network, x = awake(tiny()).double(), batch()[0].double()
    one, each = (network(x, torch.full((count,), 0.3, dtype=torch.float64)) for count in (1, 3))
    assert torch.allclose(one, each, atol=1e-10)


@torch.no_grad()
def test_no_labels_are_zero_labels():
    network, (x, noise) = awake(tiny(label_dim=3, augment_dim=2)), batch()
    nothing = network(x, noise)
    assert torch.allclose(nothing, network(x, noise, torch.zeros(3, 3), torch.zeros(3, 2)), atol=1e-6)
    assert not torch.allclose(nothing, network(x, noise, torch.eye(3)), atol=1e-3)
    assert not torch.allclose(nothing, network(x, noise, None, torch.ones(3, 2)), atol=1e-3)


@torch.no_grad()
def test_label_dropout_zeroes_whole_rows_while_training():
    network = awake(tiny(label_dim=3, label_dropout=1.0))
    x, noise = batch()
    labels = torch.eye(3)
    assert not torch.allclose(network(x, noise, labels), network(x, noise), atol=1e-3)
    network.train()
    assert torch.allclose(network(x, noise, labels), network(x, noise), atol=1e-6)


def test_size_of_the_cifar10_network():
    with torch.device("meta"):
        network = SongUNet(32, 3, 3, channel_mult=(2, 2, 2), augment_dim=9)
    assert sum(p.numel() for p in network.parameters()) == 55_733_891


def test_weights_are_a_function_of_the_generator():
    a, b = tiny().state_dict(), tiny().state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embedding_type": "fourir"}, "embedding_type: unknown value 'fourir'; did you mean fourier?"),
        ({"encoder_type": "x"}, "encoder_type: unknown value 'x'; known: standard, skip, residual"),
        ({"resample_filter": (), "channel_mult": (1,)}, r"resample_filter: \[\] is no filter"),
        ({"resample_filter": (1, -1), "channel_mult": (1,)}, r"resample_filter: \[1, -1\] is no filter"),
        ({"resample_filter": (1, 2, 1)}, r"resample_filter: \[1, 2, 1\]; an even number of taps is needed"),
        ({"dropout": 7}, r"dropout: 7 is no probability; take a number in \[0, 1]"),
        ({"dropout": math.nan}, "dropout: nan is no probability"),
        ({"label_dropout": -0.1}, "label_dropout: -0.1 is no probability"),
        (
            {"channel_mult": (1, 1, 1, 1, 1)},
            "img_resolution: 8 cannot be halved between the 5 levels of channel_mult; take a multiple of 16",
        ),
        ({"model_channels": 6}, "model_channels: a layer of"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(PrescoreError, match=message.replace("?", r"\?")):
        tiny(**arguments)
