"""Building blocks shared by the U-Nets of the EDM paper: residual blocks, FIR resampling, embeddings.

Source: T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
https://arxiv.org/abs/2206.00364, appendix F and Table 7.

Every parameter keeps the name, shape and order that published checkpoints use. Layers are born uninitialised;
`initialise` fills all of them from one generator, so that building a network touches no global random state.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from prescore.errors import PrescoreError


class Linear(nn.Module):
    """y = x W^T + b. `gain` scales the initial weights; those of a table of `classes` are normal, not uniform."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, gain: float = 1.0, classes: bool = False
    ) -> None:
        super().__init__()
        self.gain, self.classes = gain, classes
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Conv2d(nn.Module):
    """Zero-padded convolution, optionally joined to a factor-2 resampling by a separable FIR filter.

    Shapes: (B, in_channels, H, W) -> (B, out_channels, H', W') with H' = 2 H (`up`), H / 2 (`down`) or H.
    `kernel` 0 means resampling alone. The filter comes before the kernel; with `fused` and `down` it comes after
    it, both without intermediate padding. The bias is added last.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        fused: bool = False,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.kernel, self.up, self.down, self.fused, self.gain = kernel, up, down, fused, gain
        has_kernel = kernel > 0
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel)) if has_kernel else None
        self.bias = nn.Parameter(torch.empty(out_channels)) if has_kernel else None
        if up or down:
            taps = torch.tensor(resample_filter, dtype=torch.float32, device="cpu")
            self.register_buffer("resample_filter", torch.outer(taps, taps)[None, None] / taps.sum() ** 2)

    def forward(self, x: Tensor) -> Tensor:
        k = self.kernel // 2
        p = (self.resample_filter.shape[-1] - 1) // 2 if self.up or self.down else 0
        if self.fused and self.weight is not None:
            if self.up:
                x = nn.functional.conv2d(self._upsample(x, max(p - k, 0)), self.weight, padding=max(k - p, 0))
            else:
                x = self._downsample(nn.functional.conv2d(x, self.weight, padding=k + p), 0)
            return x + self.bias.reshape(1, -1, 1, 1) if self.bias is not None else x
        if self.up:
            x = self._upsample(x, p)
        if self.down:
            x = self._downsample(x, p)
        return x if self.weight is None else nn.functional.conv2d(x, self.weight, self.bias, padding=k)

    def _upsample(self, x: Tensor, padding: int) -> Tensor:
        # 4 times the filter: three of four pixels are zero after the stride, and the mean must be kept.
        return depthwise(nn.functional.conv_transpose2d, x, 4 * self.resample_filter, stride=2, padding=padding)

    def _downsample(self, x: Tensor, padding: int) -> Tensor:
        return depthwise(nn.functional.conv2d, x, self.resample_filter, stride=2, padding=padding)


def depthwise(convolve: Callable[..., Tensor], x: Tensor, K: Tensor, *, stride: int, padding: int) -> Tensor:
    """`convolve`, a function of torch, of every channel of x (B, C, H, W) with the filter K (..., L, L)."""
    with torch.autocast(x.device.type, enabled=False):
        # Depthwise convolutions in bfloat16 are up to ten times slower on CPUs than in float32.
        exact = x.float() if x.dtype == torch.bfloat16 and x.device.type == "cpu" else x
        filters = K.to(exact).expand(x.shape[1], 1, -1, -1)
        return convolve(exact, filters, stride=stride, padding=padding, groups=x.shape[1]).to(x.dtype)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Group normalisation over at most 32 groups of at least 4 channels.

    Raises:
        PrescoreError: the channels cannot be split into that many equal groups.
    """
    groups = min(32, channels // 4)
    if groups < 1 or channels % groups:
        raise PrescoreError(
            f"model_channels: a layer of {channels} channels cannot be split into {max(groups, 1)} groups of at "
            f"least 4; take a multiple of 4, and of 32 for layers above 128 channels"
        )
    return nn.GroupNorm(groups, channels, eps=eps)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over the pixels of (B, 3 C, H, W), returns (B, C, H, W).

    Channel (head (C / heads) + c) 3 + {0, 1, 2} is coordinate c of that head's query, key and value.
    Softmax of q.k / sqrt(C / heads) over the keys, in float32 or better whatever the dtype of the input.
    """
    b, channels, h, w = qkv.shape
    width = channels // 3 // heads
    exact = qkv if qkv.dtype == torch.float64 else qkv.float()
    pixels = exact.reshape(b, heads, width, 3, h * w).transpose(2, 4)
    # A fused kernel needs no matrix of all pairs of pixels, but it has no second derivative, as score matching needs;
    # it is taken where the memory is contiguous.
    needs_gradient = torch.is_grad_enabled() and qkv.requires_grad
    q, k, v = (pixels if needs_gradient else pixels.contiguous()).unbind(3)
    out = nn.functional.scaled_dot_product_attention(q, k, v)
    return out.transpose(2, 3).reshape(b, heads * width, h, w).to(qkv.dtype)


@dataclass(frozen=True)
class BlockStyle:
    """What distinguishes the residual blocks of one network family from another's.

    Attributes:
        eps: of the normalisations.
        k: factor of every residual sum.
        adaptive_scale: whether the embedding scales the normalised features as well as shifting them.
        projects_resampled: whether a resampled shortcut has a 1x1 kernel even where the width stays.
        qkv_gain, out_gain: of the initial weights of the attention's input and of the last layer of each branch.
    """

    eps: float
    k: float
    adaptive_scale: bool
    projects_resampled: bool
    qkv_gain: float
    out_gain: float


class Block(nn.Module):
    """Residual block with noise-level embedding, optional factor-2 resampling and self-attention.

    h = conv0(silu(norm0 x)),  h = silu(norm1(h + affine e)) or, with an adaptive scale, silu(norm1(h) (1 + a) + b),
    [a, b] = affine e;  y = k (conv1 h + skip x),  and with attention then y = k (proj(attention(qkv(norm2 y))) + y).
    Shapes: x (B, in_channels, H, W), e (B, emb_channels) or (1, emb_channels) -> (B, out_channels, H', W').

    Args:
        heads: of the self-attention, 0 for none.

    Raises:
        PrescoreError: the channels cannot be split into groups for normalisation, or into heads.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        style: BlockStyle,
        *,
        up: bool = False,
        down: bool = False,
        heads: int = 0,
        dropout: float = 0.0,
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        self.style, self.heads, self.dropout = style, heads, dropout
        resampled, widened = up or down, in_channels != out_channels
        self.norm0 = group_norm(in_channels, style.eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, up=up, down=down, resample_filter=resample_filter)
        self.affine = Linear(emb_channels, out_channels * (2 if style.adaptive_scale else 1))
        self.norm1 = group_norm(out_channels, style.eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, gain=style.out_gain)
        self.skip = None
        if resampled or widened:
            kernel = 1 if widened or style.projects_resampled else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, up=up, down=down, resample_filter=resample_filter)
        if heads:
            if out_channels % heads:
                raise PrescoreError(
                    f"model_channels: attention over {out_channels} channels cannot be split into {heads} equal heads; "
                    f"take a multiple of 64"
                )
            self.norm2 = group_norm(out_channels, style.eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, gain=style.qkv_gain)
            self.proj = Conv2d(out_channels, out_channels, 1, gain=style.out_gain)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = self.conv0(nn.functional.silu(self.norm0(x)))
        h = nn.functional.silu(self._modulate(h, self.affine(e)[:, :, None, None]))
        h = self.conv1(nn.functional.dropout(h, self.dropout, self.training))
        y = (h + (x if self.skip is None else self.skip(x))) * self.style.k
        if self.heads:
            y = (self.proj(attention(self.qkv(self.norm2(y)), self.heads)) + y) * self.style.k
        return y

    def _modulate(self, h: Tensor, e: Tensor) -> Tensor:
        if not self.style.adaptive_scale:
            return self.norm1(h + e)
        scale, shift = e.chunk(2, dim=1)
        return torch.addcmul(shift, self.norm1(h), scale + 1)


def check_resolution(side: int, levels: int, names: tuple[str, str] = ("img_resolution", "channel_mult")) -> None:
    """Raise PrescoreError unless an image of that side can be halved from each level to the next.

    `names`: what the network calls the side and the widths of its levels.
    """
    multiple = 2 ** max(levels - 1, 0)
    if levels < 1 or side < 1 or side % multiple:
        raise PrescoreError(
            f"{names[0]}: {side} cannot be halved between the {levels} levels of {names[1]}; "
            f"take a multiple of {multiple} and at least one level"
        )


def check_taps(name: str, taps: Sequence[float]) -> None:
    """Raise PrescoreError unless these are the taps of a filter for resampling."""
    if len(taps) < 2 or not math.isfinite(sum(taps)) or not sum(taps):
        raise PrescoreError(f"{name}: {list(taps)} is no filter; two taps or more, whose sum is not 0, are needed")


def check_probabilities(**probabilities: float) -> None:
    """Raise PrescoreError unless each value, given under its name, is in [0, 1]."""
    for name, value in probabilities.items():
        if not 0 <= value <= 1:
            raise PrescoreError(f"{name}: {value} is no probability; take a number in [0, 1]")


def check_pairs(name: str, width: int) -> None:
    """Raise PrescoreError unless an embedding of this width is made of pairs of a sine and a cosine."""
    if width % 2:
        raise PrescoreError(f"{name}: {width} is odd; the embedding of the noise level is made of pairs")


def drop_labels(class_labels: Tensor, probability: float) -> Tensor:
    """Zeroes whole rows with the given probability, drawn from torch's current RNG."""
    kept = torch.rand(len(class_labels), 1, device=class_labels.device) >= probability
    return class_labels * kept


class PositionalEmbedding(nn.Module):
    """[cos, sin] of x 10000^(-j / (n/2 - endpoint)), j = 0 .. n/2 - 1: (B,) -> (B, n)."""

    def __init__(self, channels: int, endpoint: bool = False) -> None:
        super().__init__()
        check_pairs("model_channels", channels)
        self.channels, self.endpoint = channels, endpoint

    def forward(self, x: Tensor) -> Tensor:
        half = self.channels // 2
        # float32 exponents even for float64 inputs, as in the networks whose weights are loaded here
        j = torch.arange(half, dtype=torch.float32, device=x.device) / (half - self.endpoint)
        angles = torch.outer(x, ((1 / 10000) ** j).to(x.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """[cos, sin] of 2 pi x freqs with the fixed random frequencies `freqs` ~ N(0, scale^2): (B,) -> (B, n)."""

    freqs: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        check_pairs("model_channels", channels)
        self.scale = scale
        self.register_buffer("freqs", torch.empty(channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.outer(x, (2 * math.pi * self.freqs).to(x.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


@torch.no_grad()
def initialise(
    network: nn.Module,
    generator: torch.Generator | None = None,
    rule: Literal["xavier", "default"] = "xavier",
) -> None:
    """Uniform weights times each layer's gain; Fourier frequencies ~ N(0, scale^2); tables of classes ~ N(0, 1).

    The bound is sqrt(6 / (fan_in + fan_out)) by the rule "xavier", where biases are zero, and 1 / sqrt(fan_in) by the
    rule "default", torch's own, where biases are drawn like weights. Nothing is drawn on the meta device.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    for module in network.modules():
        if isinstance(module, Linear) and module.classes:
            module.weight.normal_(generator=generator)
        elif isinstance(module, (Linear, Conv2d)) and module.weight is not None:
            receptive = module.weight[0, 0].numel()
            fan_out, fan_in = (n * receptive for n in module.weight.shape[:2])
            bound = math.sqrt(6 / (fan_in + fan_out)) if rule == "xavier" else math.sqrt(1 / fan_in)
            module.weight.uniform_(-1, 1, generator=generator).mul_(bound * module.gain)
            if module.bias is not None and rule == "xavier":
                module.bias.zero_()
            elif module.bias is not None:
                module.bias.uniform_(-1, 1, generator=generator).mul_(bound * module.gain)
        elif isinstance(module, FourierEmbedding):
            module.freqs.normal_(0, module.scale, generator=generator)
