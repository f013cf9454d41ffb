"""Factor-2 resampling by a separable FIR filter, alone or joined to a 3x3 convolution, or without a filter.

With the taps k of length L >= 2 the filter is K = outer(k, k) / sum(k)^2. As true convolutions on zero-padded images,

    upsample      x on the even pixels of a grid of zeros twice as large, then 4 K (three of four pixels are zero),
                  padded by ((p + 1) // 2 + 1, p // 2), p = L - 2
    downsample    K, padded by ((p + 1) // 2, p // 2), p = L - 2, then every second pixel from the first on

and joined to a 3x3 kernel, whose own padding is merged with the filter's,

    downsample    K first, p = L, then the kernel with stride 2, not padded
    upsample      the kernel on the grid of zeros, padded by (2, 1), then 4 K, padded by ((p + 1) // 2 + 1, p // 2 + 1),
                  p = L - 4

Sources: T. Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020,
https://arxiv.org/abs/1912.04958, appendix B, after R. Zhang, "Making Convolutional Networks Shift-Invariant Again",
2019, https://arxiv.org/abs/1904.11486; used by Y. Song et al., 2021, https://arxiv.org/abs/2011.13456, appendix H.1.

The grid of zeros is never made: a transposed depthwise convolution skips it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, pad

from prescore.models.layers import Conv2d, depthwise


class Resampler(nn.Module):
    """Changes the resolution by 2, (B, c_in, H, W) -> (B, c_out, H', W'), by the filter with these `taps`, if any.

    `with_conv`, a 3x3 convolution is part of it; its name tells whether it is joined to a filter.
    """

    K: Tensor

    def __init__(self, c_in: int, c_out: int, taps: Sequence[float] | None, with_conv: bool) -> None:
        super().__init__()
        self.taps, self.with_conv = taps, with_conv
        if taps:
            self.register_buffer("K", kernel(taps), persistent=False)
        if with_conv:
            self.add_module(self._conv_name, Conv2d(c_in, c_out, 3))

    @property
    def _conv_name(self) -> str:
        return "Conv2d_0" if self.taps else "Conv_0"

    def conv(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution."""
        layer = self.get_submodule(self._conv_name)
        return layer.get_parameter("weight"), layer.get_parameter("bias")


class Downsample(Resampler):
    """Half the resolution. Without a filter, the mean of 2x2 pixels or a convolution of stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        if self.taps:
            return downsample_conv(x, self.K, *self.conv()) if self.with_conv else downsample(x, self.K)
        return conv2d(pad(x, (0, 1, 0, 1)), *self.conv(), stride=2) if self.with_conv else avg_pool2d(x, 2)


class Upsample(Resampler):
    """Twice the resolution. Without a filter, every pixel is repeated, and a convolution may follow."""

    def forward(self, x: Tensor) -> Tensor:
        if self.taps:
            return upsample_conv(x, self.K, *self.conv()) if self.with_conv else upsample(x, self.K)
        x = interpolate(x, scale_factor=2, mode="nearest")
        return conv2d(x, *self.conv(), padding=1) if self.with_conv else x


def kernel(taps: Sequence[float]) -> Tensor:
    """K = outer(k, k) / sum(k)^2, (L, L), float32 on the CPU even inside a `torch.device` context."""
    k = torch.tensor(taps, dtype=torch.float64, device="cpu")
    return (torch.outer(k, k) / k.sum() ** 2).float()


def upsample(x: Tensor, K: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
    h, w = x.shape[2:]
    before = (len(K) - 1) // 2 + 1
    y = depthwise(conv_transpose2d, x, 4 * K, stride=2, padding=len(K) - 1 - before)
    return y[:, :, : 2 * h, : 2 * w]  # one more row and column than that when L is odd


def downsample(x: Tensor, K: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H / 2, W / 2), H and W even."""
    return _filter(x, K, (len(K) - 1) // 2, (len(K) - 2) // 2, stride=2)


def upsample_conv(x: Tensor, K: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, D, 2 H, 2 W) with `weight` (D, C, 3, 3), `bias` (D,)."""
    y = conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)
    p = len(K) - 4
    return _filter(y, 4 * K, (p + 1) // 2 + 1, p // 2 + 1) + bias.reshape(-1, 1, 1)


def downsample_conv(x: Tensor, K: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, D, H / 2, W / 2) with `weight` (D, C, 3, 3), `bias` (D,); H and W even."""
    return conv2d(_filter(x, K, (len(K) + 1) // 2, len(K) // 2), weight, bias, stride=2)


def _filter(x: Tensor, K: Tensor, before: int, after: int, stride: int = 1) -> Tensor:
    if before != after:
        x = pad(x, (before, after, before, after))
    padding = before if before == after else 0
    # conv2d correlates
    return depthwise(conv2d, x, K.flip(0, 1), stride=stride, padding=padding)
