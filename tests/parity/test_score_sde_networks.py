"""NCSN++, DDPM++ and FIR resampling against numbers recorded from score_sde_pytorch, and FIR against diffusers."""

import json

import pytest
import torch
from safetensors import safe_open
from support import REFERENCE, reference, relative
from torch.nn.functional import conv2d

from prescore.models import fir
from prescore.models.fir import Downsample, Upsample
from prescore.models.ncsnpp import NCSNpp

SCORE_SDE = REFERENCE / "score_sde"
NETWORKS = [
    "ncsnpp-fourier-residual",
    "ncsnpp-fourier-skip-skip",
    "ncsnpp-fourier-skip-skip-cat",
    "ncsnpp-positional-discrete",
    "ncsnpp-ddpmblock-fir-noconv",
    "ddpmpp-positional",
    "corrected-ncsnpp-ddpmblock-residual-nofir",
]
TAPS = {"": (1, 3, 3, 1), "k11/": (1, 1), "k121/": (1, 2, 1), "k14641/": (1, 4, 6, 4, 1)}
LIMIT, LIMIT_F64, FIR_LIMIT = 1e-5, 1e-12, 1e-6


def recorded(name):
    """Tensors and metadata of a network's file; the test is skipped where it is not."""
    path = SCORE_SDE / f"net-{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no recorded numbers score_sde/{path.name} beside the repository")
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def built(name):
    """The network with the recorded weights, in evaluation mode, and what was recorded."""
    tensors, metadata = recorded(name)
    config = json.loads(metadata["config"])
    same_everywhere = ("conditional", "name", "nonlinearity")
    arguments = {key: value for key, value in config["model"].items() if key not in same_everywhere}
    network = NCSNpp(**config["data"], **arguments).eval()
    assert list(network.state_dict()) == json.loads(metadata["state_dict_order"])
    sigmas = network.sigmas.clone()
    network.load_state_dict({key.removeprefix("param/"): v for key, v in tensors.items() if key.startswith("param/")})
    assert torch.allclose(sigmas, network.sigmas, rtol=1e-14)
    frozen = [key for key, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen == json.loads(metadata["frozen"])
    return network, tensors


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_networks(name):
    network, tensors = built(name)
    x, time = tensors["in/x"], tensors["in/time_cond"]
    found = network(x, time)
    assert found.dtype == torch.float32
    assert relative(found, tensors["out"]) < LIMIT
    time = time.double() if time.is_floating_point() else time
    found = network.double()(x.double(), time)
    assert found.dtype == torch.float64
    assert relative(found, tensors["out_f64"]) < LIMIT_F64


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_every_layer_of_the_networks(name):
    network, tensors = built(name)
    seen = {}
    for i, layer in enumerate(network.all_modules):
        layer.register_forward_hook(lambda _, __, out, i=i: seen.update({i: out[0]}))
    network(tensors["in/x"], tensors["in/time_cond"])
    assert list(seen) == list(range(len(network.all_modules)))
    for i, value in seen.items():
        assert relative(value, tensors[f"mid/all_modules.{i}"].squeeze(0)) < LIMIT, i


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("prefix", TAPS)
def test_resampling(prefix, memory_format):
    recorded = reference("score_sde/fir-resample.safetensors")
    x, K, w, no_bias = recorded["x"], fir.kernel(TAPS[prefix]), recorded["w"], torch.zeros(4)
    x = x.contiguous(memory_format=memory_format)
    assert relative(fir.upsample(x, K), recorded[f"{prefix}upsample_2d"]) < FIR_LIMIT
    assert relative(fir.downsample(x, K), recorded[f"{prefix}downsample_2d"]) < FIR_LIMIT
    assert relative(fir.downsample_conv(x, K, w, no_bias), recorded[f"{prefix}conv_downsample_2d"]) < FIR_LIMIT


def test_resampling_that_the_original_cannot_do():
    recorded = reference("score_sde/fir-resample.safetensors")
    found = fir.upsample_conv(recorded["x"], fir.kernel(TAPS[""]), recorded["w"], torch.zeros(4))
    assert relative(found, recorded["corrected_upsample_conv_2d"]) < FIR_LIMIT


@torch.no_grad()
def test_resampling_without_a_filter():
    recorded = reference("score_sde/fir-resample.safetensors")
    up, down = (kind(3, 3, None, with_conv=False) for kind in (Upsample, Downsample))
    assert torch.equal(up(recorded["x"]), recorded["naive_upsample_2d"])
    assert relative(down(recorded["x"]), recorded["naive_downsample_2d"]) < FIR_LIMIT


@pytest.mark.parametrize("taps", TAPS.values())
def test_diffusers_filters(taps):
    upfirdn2d = pytest.importorskip("diffusers.models.upsampling").upfirdn2d_native
    x, K, p = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0)), fir.kernel(taps), len(taps) - 2
    up = upfirdn2d(x, 4 * K, up=2, pad=((p + 1) // 2 + 1, p // 2))
    down = upfirdn2d(x, K, down=2, pad=((p + 1) // 2, p // 2))
    assert relative(fir.upsample(x, K), up) < FIR_LIMIT
    assert relative(fir.downsample(x, K), down) < FIR_LIMIT


def test_a_filter_that_is_not_symmetric():
    upfirdn2d = pytest.importorskip("diffusers.models.upsampling").upfirdn2d_native
    x, K = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0)), fir.kernel((1, 2, 5, 3))
    assert relative(fir.upsample(x, K), upfirdn2d(x, 4 * K, up=2, pad=(2, 1))) < FIR_LIMIT
    assert relative(fir.downsample(x, K), upfirdn2d(x, K, down=2, pad=(1, 1))) < FIR_LIMIT
    w = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    joined = conv2d(upfirdn2d(x, K, pad=(2, 2)), w, stride=2)
    assert relative(fir.downsample_conv(x, K, w, torch.zeros(5)), joined) < FIR_LIMIT


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("with_conv", [False, True])
@torch.no_grad()
def test_diffusers_blocks(direction, with_conv):
    pytest.importorskip("diffusers")
    from diffusers.models.downsampling import FirDownsample2D
    from diffusers.models.upsampling import FirUpsample2D

    ours, theirs = {"up": (Upsample, FirUpsample2D), "down": (Downsample, FirDownsample2D)}[direction]
    theirs = theirs(3, 3, use_conv=with_conv, fir_kernel=(1, 3, 3, 1))
    ours = ours(3, 3, (1, 3, 3, 1), with_conv)
    if with_conv:
        torch.manual_seed(0)
        for parameter in theirs.parameters():
            parameter.normal_()
        ours.load_state_dict({f"Conv2d_0.{k}": theirs.state_dict()[f"Conv2d_0.{k}"] for k in ("weight", "bias")})
    x = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    assert relative(ours(x), theirs(x)) < FIR_LIMIT
