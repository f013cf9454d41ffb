import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from prescore.errors import PrescoreError
from prescore.models import fir
from prescore.models.layers import Conv2d, FourierEmbedding, Linear, attention, group_norm, initialise


def resampler(taps, **direction):
    return Conv2d(2, 2, 0, resample_filter=taps, **direction)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling_keeps_a_constant(taps):
    x = torch.full((1, 2, 8, 8), 3.0)
    inside = slice(1, -1)  # zero padding darkens the border of the longer filter
    assert torch.allclose(resampler(taps, down=True)(x)[..., inside, inside], torch.tensor(3.0))
    assert torch.allclose(resampler(taps, up=True)(x)[..., inside, inside], torch.tensor(3.0))


def test_shortest_filter_averages_and_repeats():
    x = torch.arange(16.0).reshape(1, 1, 4, 4).repeat(1, 2, 1, 1)
    means = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert torch.equal(resampler((1, 1), down=True)(x), means)
    assert torch.equal(resampler((1, 1), up=True)(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_fused_resampling_equals_separate_away_from_the_border(taps, direction):
    separate, fused = (Conv2d(2, 3, 3, resample_filter=taps, fused=f, **{direction: True}) for f in (False, True))
    initialise(separate, torch.Generator().manual_seed(0))
    separate.bias.data.fill_(0.5)
    fused.load_state_dict(separate.state_dict())
    x = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    a, b = separate(x)[..., 3:-3, 3:-3], fused(x)[..., 3:-3, 3:-3]
    assert a.shape == b.shape
    if direction == "up":  # the kernel acts on the fine grid in both
        assert torch.allclose(a, b, atol=1e-6)
    else:  # on the coarse grid, and on the fine one
        assert not torch.allclose(a, b, atol=1e-2)


@pytest.mark.parametrize("is_autocast", [True, False])
def test_filters_of_every_network_compute_in_float32(is_autocast):
    """In bfloat16, where it is slow, and under autocast: the result is that of float32, rounded once at most."""
    taps = (1, 2, 5, 3)  # no numbers of bfloat16 once they are divided by their sum
    x, K = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), fir.kernel(taps)
    x = x.bfloat16().float()
    given = x if is_autocast else x.bfloat16()
    functions = [lambda x: fir.upsample(x, K), lambda x: fir.downsample(x, K)]
    functions += [Conv2d(3, 3, 0, resample_filter=taps, **{way: True}) for way in ("up", "down")]
    for function in functions:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
            found = function(given)
        assert found.dtype == given.dtype
        assert torch.equal(found, function(x).to(given.dtype))


def test_attention_against_its_definition():
    heads, width, h, w = 2, 3, 2, 4
    qkv = torch.randn(2, 3 * heads * width, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = attention(qkv, heads)
    for b in range(2):
        for head in range(heads):
            rows = [[(head * width + c) * 3 + kind for c in range(width)] for kind in range(3)]
            q, k, v = (qkv[b, row].reshape(width, -1) for row in rows)
            weights = torch.softmax(q.T @ k / math.sqrt(width), dim=1)
            expected = (v @ weights.T).reshape(width, h, w)
            assert torch.allclose(found[b, head * width : (head + 1) * width], expected, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_attention_without_gradient_needs_no_matrix_of_all_pairs(memory_format):
    qkv = torch.randn(2, 24, 4, 4, generator=torch.Generator().manual_seed(0)).to(memory_format=memory_format)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where the inputs do not suit it
        fused = attention(qkv, 2)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.allclose(attention(qkv, 2), fused, atol=1e-6)


def test_attention_has_second_derivatives():
    qkv = torch.randn(1, 6, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda u: attention(u, 1), qkv)


def test_half_precision_attention_is_computed_in_float32():
    qkv = 30 * torch.randn(1, 12, 4, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    exact = attention(qkv.float(), 1)
    assert torch.equal(attention(qkv, 1), exact.to(torch.bfloat16))


def test_initial_weights():
    layer, scaled, embedding = Linear(300, 200), Conv2d(30, 20, 3, gain=1e-5), FourierEmbedding(4000)
    for module in (layer, scaled, embedding):
        initialise(module, torch.Generator().manual_seed(0))
    assert layer.weight.abs().max().item() == pytest.approx(math.sqrt(6 / 500), rel=1e-3)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 500), rel=0.01)
    assert scaled.weight.abs().max().item() == pytest.approx(1e-5 * math.sqrt(6 / 450), rel=1e-2)
    assert not layer.bias.any()
    assert not scaled.bias.any()
    assert embedding.freqs.std().item() == pytest.approx(16, rel=0.05)


def test_initial_weights_by_the_default_rule():
    layer, silent, table = Linear(300, 200), Conv2d(30, 20, 3, gain=0.0), Linear(50, 200, bias=False, classes=True)
    for module in (layer, silent, table):
        initialise(module, torch.Generator().manual_seed(0), rule="default")
    for values in (layer.weight, layer.bias):
        assert values.std().item() == pytest.approx(math.sqrt(1 / 900), rel=0.1)
        assert values.abs().max().item() <= math.sqrt(1 / 300)
    assert not silent.weight.any()
    assert not silent.bias.any()
    assert table.weight.std().item() == pytest.approx(1, rel=0.02)


def test_initial_weights_use_the_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    a, b = Linear(4, 4), Linear(4, 4)
    initialise(a, torch.Generator().manual_seed(3))
    initialise(b, torch.Generator().manual_seed(3))
    assert torch.equal(a.weight, b.weight)
    assert torch.equal(before, torch.get_rng_state())


def test_widths_that_cannot_be_normalised_are_refused():
    with pytest.raises(PrescoreError, match=r"model_channels: a layer of 144 channels cannot be split into 32 groups"):
        group_norm(144, 1e-6)
    with pytest.raises(PrescoreError, match="a layer of 2 channels"):
        group_norm(2, 1e-6)
