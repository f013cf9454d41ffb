"""NCSN++ and DDPM++, the networks of score_sde_pytorch.

Source: Y. Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
https://arxiv.org/abs/2011.13456, appendix H; with the blocks of A. Brock et al., "Large Scale GAN Training for High
Fidelity Natural Image Synthesis", 2019, https://arxiv.org/abs/1809.11096, and of J. Ho et al., "Denoising Diffusion
Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239, and the pyramids of T. Karras et al., "Analyzing and
Improving the Image Quality of StyleGAN", 2020, https://arxiv.org/abs/1912.04958, Figure 7.

Every parameter has the name, shape and order of the published checkpoints (https://github.com/yang-song/
score_sde_pytorch, Apache-2.0): `all_modules` is one flat list in the order in which the forward pass uses it.

The defaults are NCSN++ for CIFAR-10. DDPM++ is `resblock_type="biggan"` with `fir=False`, no pyramid, positional
embedding, `centered` and without `scale_by_sigma`; the class DDPM of the same repository is that with
`resblock_type="ddpm"` and without `skip_rescale`.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, dropout, scaled_dot_product_attention, silu

from prescore.errors import PrescoreError, check_choice
from prescore.models.fir import Downsample, Upsample
from prescore.models.layers import (
    Conv2d,
    Linear,
    check_pairs,
    check_probabilities,
    check_resolution,
    check_taps,
    group_norm,
    initialise,
)

EPS = 1e-6
CHOICES = {
    "resblock_type": ("biggan", "ddpm"),
    "progressive": ("none", "output_skip", "residual"),
    "progressive_input": ("none", "input_skip", "residual"),
    "progressive_combine": ("sum", "cat"),
    "embedding_type": ("fourier", "positional"),
}


class GaussianFourierProjection(nn.Module):
    """[sin, cos] of 2 pi W ln(sigma), with frequencies W ~ N(0, scale^2) that are not trained: (B,) -> (B, 2 n)."""

    def __init__(self, n: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.W = nn.Parameter(torch.empty(n), requires_grad=False)

    def forward(self, sigma: Tensor) -> Tensor:
        # Angles reach hundreds of radians: only this order of the products rounds them as in training.
        angles = sigma.log()[:, None] * self.W * 2 * math.pi
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class NIN(nn.Module):
    """y = x W + b at every pixel: (B, c_in, H, W) -> (B, c_out, H, W), W (c_in, c_out). `gain` as in `Conv2d`."""

    def __init__(self, c_in: int, c_out: int, gain: float = math.sqrt(0.1)) -> None:
        super().__init__()
        self.gain = gain
        self.W = nn.Parameter(torch.empty(c_in, c_out))
        self.b = nn.Parameter(torch.empty(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.W.T[:, :, None, None], self.b)


class AttnBlock(nn.Module):
    """Self-attention over the pixels, one head: x + NIN_3(softmax(q.k / sqrt(C)) v), (B, C, H, W) -> the same."""

    def __init__(self, channels: int, skip_scale: float, gain: float) -> None:
        super().__init__()
        self.skip_scale = skip_scale
        self.GroupNorm_0 = group_norm(channels, EPS)
        self.NIN_0 = NIN(channels, channels)
        self.NIN_1 = NIN(channels, channels)
        self.NIN_2 = NIN(channels, channels)
        self.NIN_3 = NIN(channels, channels, gain)

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (nin(h).flatten(2).mT[:, None] for nin in (self.NIN_0, self.NIN_1, self.NIN_2))
        h = scaled_dot_product_attention(q, k, v)[:, 0].mT.reshape(x.shape)
        return (x + self.NIN_3(h)) * self.skip_scale


class ResnetBlock(nn.Module):
    """Residual block with noise-level embedding and optional resampling.

    h = Conv_1(act(GroupNorm_1(Conv_0(r(act(GroupNorm_0 x))) + Dense_0 e))),  y = (shortcut(r(x)) + h) skip_scale
    Shapes: x (B, c_in, H, W), e (B or 1, emb) -> (B, c_out, H', W').

    Args:
        resample: r, None for the identity.
        shortcut: "Conv_2" or "NIN_0", the name of the layer that changes the width of x; "" for none.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        emb: int,
        *,
        resample: nn.Module | None,
        shortcut: str,
        dropout: float,
        skip_scale: float,
        gain: float,
    ) -> None:
        super().__init__()
        self.resample, self.shortcut, self.dropout, self.skip_scale = resample, shortcut, dropout, skip_scale
        self.GroupNorm_0 = group_norm(c_in, EPS)
        self.Conv_0 = Conv2d(c_in, c_out, 3)
        self.Dense_0 = Linear(emb, c_out)
        self.GroupNorm_1 = group_norm(c_out, EPS)
        self.Conv_1 = Conv2d(c_out, c_out, 3, gain=gain)
        if shortcut:
            self.add_module(shortcut, NIN(c_in, c_out) if shortcut == "NIN_0" else Conv2d(c_in, c_out, 1))

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        h = silu(self.GroupNorm_0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(e)[:, :, None, None]
        h = dropout(silu(self.GroupNorm_1(h)), self.dropout, self.training)
        x = self.get_submodule(self.shortcut)(x) if self.shortcut else x
        return (x + self.Conv_1(h)) * self.skip_scale


class Combine(nn.Module):
    """Feeds the pyramid of shrunken input images into the features: their sum, or both side by side."""

    def __init__(self, c_pyramid: int, c_h: int, method: str) -> None:
        super().__init__()
        self.method = method
        self.Conv_0 = Conv2d(c_pyramid, c_h, 1)

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        u = self.Conv_0(pyramid)
        return torch.cat([u, h], dim=1) if self.method == "cat" else u + h


class NCSNpp(nn.Module):
    """U-Net: images (B, C, R, R) and their noise levels (B,) or (1,) -> (B, C, R, R).

    The noise level is sigma for the Fourier embedding, whose logarithm the network takes, and for the positional one a
    time, or a label that counts `sigmas`. With `scale_by_sigma` the output is a score, else a noise.

    Args:
        image_size: side R of the images, in pixels, divisible by 2^(levels - 1).
        num_channels: channels C of the images.
        nf: base width; `ch_mult` multiplies it level by level.
        num_res_blocks: residual blocks a level in the encoder (one more in the decoder).
        attn_resolutions: resolutions with self-attention, besides the coarsest, where the middle always has it.
        dropout: probability in [0, 1], used while training; it draws from torch's current RNG.
        resamp_with_conv: whether the resamplings between "ddpm" blocks have a convolution.
        fir, fir_kernel: whether resamplings are filtered, and the taps.
        skip_rescale: divide sums of two branches by sqrt(2).
        resblock_type, progressive, progressive_input, progressive_combine, embedding_type: see `CHOICES`.
        fourier_scale: standard deviation of the Fourier frequencies.
        init_scale: variance of the initial weights that end a branch, relative to the others'; 0 stands for 1e-10.
        centered: the data are in [-1, 1]; otherwise in [0, 1], and the network itself maps x to 2 x - 1.
        scale_by_sigma: divide the output by sigma.
        sigma_min, sigma_max, num_scales: the table `sigmas`, geometric and descending.
        generator: source of the initial weights; None takes torch's current RNG.

    Raises:
        PrescoreError: unknown choice, a probability outside [0, 1], a resolution that cannot be halved once a level, a
            width that cannot be split into groups for normalisation, or a filter or a table of noise levels that is
            none.
    """

    sigmas: Tensor

    def __init__(
        self,
        image_size: int,
        num_channels: int = 3,
        *,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        resamp_with_conv: bool = True,
        fir: bool = True,
        fir_kernel: Sequence[float] = (1, 3, 3, 1),
        skip_rescale: bool = True,
        resblock_type: str = "biggan",
        progressive: str = "none",
        progressive_input: str = "residual",
        progressive_combine: str = "sum",
        embedding_type: str = "fourier",
        fourier_scale: float = 16.0,
        init_scale: float = 0.0,
        centered: bool = False,
        scale_by_sigma: bool = True,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_scales: int = 1000,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        chosen = (resblock_type, progressive, progressive_input, progressive_combine, embedding_type)
        for (name, choices), value in zip(CHOICES.items(), chosen, strict=True):
            check_choice(name, value, choices)
        check_probabilities(dropout=dropout)
        if embedding_type == "positional":
            check_pairs("nf", nf)
        check_resolution(image_size, len(ch_mult), names=("image_size", "ch_mult"))
        if fir:
            check_taps("fir_kernel", fir_kernel)
        self.num_channels, self.nf, self.widths = num_channels, nf, [nf * m for m in ch_mult]
        self.num_res_blocks, self.dropout, self.resamp_with_conv = num_res_blocks, dropout, resamp_with_conv
        self.attends = [image_size >> level in attn_resolutions for level in range(len(ch_mult))]
        self.taps = tuple(fir_kernel) if fir else None
        self.skip_scale = math.sqrt(0.5) if skip_rescale else 1.0
        self.resblock_type, self.embedding_type, self.fourier_scale = resblock_type, embedding_type, fourier_scale
        self.progressive, self.progressive_input = progressive, progressive_input
        self.progressive_combine = progressive_combine
        self.gain = math.sqrt(init_scale or 1e-10)
        self.centered, self.scale_by_sigma = centered, scale_by_sigma
        self.register_buffer("sigmas", _geometric(sigma_max, sigma_min, num_scales))
        skips: list[int] = []
        self.all_modules = nn.ModuleList([*self._embedding(), *self._encoder(skips), *self._decoder(skips)])
        self.shrink = Downsample(num_channels, num_channels, self.taps, with_conv=False)
        self.enlarge = Upsample(num_channels, num_channels, self.taps, with_conv=False)
        _initialise(self, generator)

    def _embedding(self) -> Iterator[nn.Module]:
        if self.embedding_type == "fourier":
            yield GaussianFourierProjection(self.nf, self.fourier_scale)
        yield Linear(self.nf * (2 if self.embedding_type == "fourier" else 1), 4 * self.nf)
        yield Linear(4 * self.nf, 4 * self.nf)

    def _encoder(self, skips: list[int]) -> Iterator[nn.Module]:
        """The encoder's layers; the widths of the skip connections are pushed as they are made."""
        width, pyramid = self.nf, self.num_channels
        yield Conv2d(self.num_channels, width, 3)
        skips.append(width)
        for level, level_width in enumerate(self.widths):
            for _ in range(self.num_res_blocks):
                yield self._block(width, level_width)
                width = level_width
                if self.attends[level]:
                    yield self._attention(width)
                skips.append(width)
            if level == len(self.widths) - 1:
                return
            yield self._resampler(Downsample, width)
            if self.progressive_input == "input_skip":
                yield Combine(pyramid, width, self.progressive_combine)
                width *= 2 if self.progressive_combine == "cat" else 1
            elif self.progressive_input == "residual":
                yield Downsample(pyramid, width, self.taps, with_conv=True)
                pyramid = width
            skips.append(width)

    def _decoder(self, skips: list[int]) -> Iterator[nn.Module]:
        width = skips[-1]
        yield self._block(width, width)
        yield self._attention(width)
        yield self._block(width, width)
        coarsest = pyramid = len(self.widths) - 1
        for level in range(coarsest, -1, -1):
            for _ in range(self.num_res_blocks + 1):
                yield self._block(width + skips.pop(), self.widths[level])
                width = self.widths[level]
            if self.attends[level]:
                yield self._attention(width)
            if self.progressive == "output_skip":
                yield group_norm(width, EPS)
                yield Conv2d(width, self.num_channels, 3, gain=self.gain)
            elif self.progressive == "residual" and level == coarsest:
                yield group_norm(width, EPS)
                yield Conv2d(width, width, 3)
            elif self.progressive == "residual":
                yield Upsample(pyramid, width, self.taps, with_conv=True)
            pyramid = width
            if level > 0:
                yield self._resampler(Upsample, width)
        if self.progressive != "output_skip":
            yield group_norm(width, EPS)
            yield Conv2d(width, self.num_channels, 3, gain=self.gain)

    def _block(self, c_in: int, c_out: int, resample: nn.Module | None = None) -> ResnetBlock:
        shortcut = "Conv_2" if self.resblock_type == "biggan" else "NIN_0"
        return ResnetBlock(
            c_in,
            c_out,
            4 * self.nf,
            resample=resample,
            shortcut=shortcut if c_in != c_out or resample is not None else "",
            dropout=self.dropout,
            skip_scale=self.skip_scale,
            gain=self.gain,
        )

    def _attention(self, width: int) -> AttnBlock:
        return AttnBlock(width, self.skip_scale, self.gain)

    def _resampler(self, kind: type[Downsample] | type[Upsample], width: int) -> nn.Module:
        """What changes the resolution between levels: a block of its own, or the resampling alone."""
        if self.resblock_type == "biggan":
            return self._block(width, width, kind(width, width, self.taps, with_conv=False))
        return kind(width, width, self.taps, with_conv=self.resamp_with_conv)

    def forward(self, x: Tensor, noise_level: Tensor) -> Tensor:
        layers = iter(self.all_modules)
        # Half precision can neither tell time 998 from 999 nor hold the output at sigma = 1348.
        exact = torch.promote_types(self.all_modules[-1].get_parameter("weight").dtype, torch.float32)
        e = self._embed(layers, noise_level.to(exact))
        h, skips = self._encode(layers, x if self.centered else 2 * x - 1, e)
        out = self._decode(layers, h, skips, e)
        if self.scale_by_sigma:
            sigma = noise_level if self.embedding_type == "fourier" else self.sigmas[noise_level.long()]
            out = out / sigma.to(exact).reshape(-1, 1, 1, 1)
        return out

    def _embed(self, layers: Iterator[nn.Module], noise_level: Tensor) -> Tensor:
        """act(e), (B or 1, 4 nf): what the blocks have in common."""
        if self.embedding_type == "fourier":
            e = next(layers)(noise_level)
        else:
            e = _positional(noise_level, self.nf)
        linear_0, linear_1 = next(layers), next(layers)
        return silu(linear_1(silu(linear_0(e.to(linear_0.weight.dtype)))))

    def _encode(self, layers: Iterator[nn.Module], x: Tensor, e: Tensor) -> tuple[Tensor, list[Tensor]]:
        pyramid, h = x, next(layers)(x)
        skips = [h]
        for level, attends in enumerate(self.attends):
            for _ in range(self.num_res_blocks):
                h = next(layers)(h, e)
                if attends:
                    h = next(layers)(h)
                skips.append(h)
            if level == len(self.attends) - 1:
                break
            h = self._resample(next(layers), h, e)
            if self.progressive_input == "input_skip":
                pyramid = self.shrink(pyramid)
                h = next(layers)(pyramid, h)
            elif self.progressive_input == "residual":
                h = pyramid = (next(layers)(pyramid) + h) * self.skip_scale
            skips.append(h)
        return h, skips

    def _decode(self, layers: Iterator[nn.Module], h: Tensor, skips: list[Tensor], e: Tensor) -> Tensor:
        h = next(layers)(h, e)
        h = next(layers)(h)
        h = next(layers)(h, e)
        pyramid: Tensor | None = None
        for level in range(len(self.attends) - 1, -1, -1):
            for _ in range(self.num_res_blocks + 1):
                h = next(layers)(torch.cat([h, skips.pop()], dim=1), e)
            if self.attends[level]:
                h = next(layers)(h)
            if self.progressive == "output_skip":
                image = _project(layers, h)
                pyramid = image if pyramid is None else self.enlarge(pyramid) + image
            elif self.progressive == "residual" and pyramid is None:
                pyramid = _project(layers, h)
            elif self.progressive == "residual":
                h = pyramid = (next(layers)(pyramid) + h) * self.skip_scale
            if level > 0:
                h = self._resample(next(layers), h, e)
        if self.progressive == "output_skip" and pyramid is not None:
            return pyramid
        return _project(layers, h)

    def _resample(self, layer: nn.Module, h: Tensor, e: Tensor) -> Tensor:
        return layer(h, e) if self.resblock_type == "biggan" else layer(h)


def _positional(time: Tensor, n: int) -> Tensor:
    """[sin, cos] of time 10000^(-j / (n/2 - 1)), j = 0 .. n/2 - 1: (B,) -> (B, n), always float32, as in training."""
    j = torch.arange(n // 2, dtype=torch.float32, device=time.device)
    angles = torch.outer(time.float(), torch.exp(j * (-math.log(10000) / (n // 2 - 1))))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _project(layers: Iterator[nn.Module], h: Tensor) -> Tensor:
    norm, conv = next(layers), next(layers)
    return conv(silu(norm(h)))


def _geometric(sigma_max: float, sigma_min: float, n: int) -> Tensor:
    """The float64 table of noise levels, highest first."""
    if not (0 < sigma_min < sigma_max < math.inf and n >= 2):
        raise PrescoreError(
            f"sigma_min {sigma_min}, sigma_max {sigma_max} and num_scales {n}: "
            f"0 < sigma_min < sigma_max < inf and at least 2 scales are needed"
        )
    # In the order of the published networks; `grid.geometric` differs from it in the last places of float64.
    # On the CPU first: on the device "meta" these two functions would cost seconds of imports.
    logarithms = torch.linspace(math.log(sigma_max), math.log(sigma_min), n, dtype=torch.float64, device="cpu")
    return logarithms.exp().to(torch.get_default_device())


@torch.no_grad()
def _initialise(network: NCSNpp, generator: torch.Generator | None) -> None:
    """Uniform weights of variance gain^2 / fan_avg, zero biases; Fourier frequencies ~ N(0, scale^2)."""
    if network.sigmas.is_meta:
        return  # nothing to fill, and drawing on this device would cost seconds of imports
    initialise(network, generator)
    for module in network.modules():
        if isinstance(module, NIN):
            module.W.uniform_(-1, 1, generator=generator).mul_(math.sqrt(6 / sum(module.W.shape)) * module.gain)
            module.b.zero_()
        elif isinstance(module, GaussianFourierProjection):
            module.W.normal_(0, module.scale, generator=generator)
