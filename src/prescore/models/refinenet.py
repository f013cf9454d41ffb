"""The layers of the RefineNets of NCSN and NCSNv2: normalisations, residual blocks and refinement blocks.

Sources: Y. Song and S. Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", 2019,
https://arxiv.org/abs/1907.05600, appendix A (conditional instance normalisation++); "Improved Techniques for Training
Score-Based Generative Models", 2020, https://arxiv.org/abs/2006.09011, appendix B; G. Lin et al., "RefineNet:
Multi-Path Refinement Networks for High-Resolution Semantic Segmentation", 2017, https://arxiv.org/abs/1611.06612,
figure 2 (refinement block).

Names, shapes and order of the parameters are those of published checkpoints.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import product
from operator import add

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, elu, group_norm, interpolate, max_pool2d

EPS = 1e-5
POOL = 5  # pixels, the window of chained residual pooling
Pool = Callable[[Tensor], Tensor]
Norm = Callable[[int], nn.Module]


class Conv(nn.Conv2d):
    """Zero-padded convolution that keeps the resolution. Born uninitialised: see `initialise`."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, *, dilation: int = 1, bias: bool = True) -> None:
        super().__init__(c_in, c_out, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=bias)

    def reset_parameters(self) -> None:
        """Leave the global random state alone."""


class ConvMeanPool(nn.Module):
    """A convolution, then the mean of every 2x2 pixels: (B, c_in, H, W) -> (B, c_out, H/2, W/2)."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = Conv(c_in, c_out, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return avg_pool2d(self.conv(x), 2)


class Embedding(nn.Embedding):
    """A table with one row a label. Born uninitialised: see `initialise`."""

    def reset_parameters(self) -> None:
        """Leave the global random state alone."""


def instance_norm_plus(x: Tensor, gamma: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """y = gamma (IN(x) + alpha z) + beta, z the standardised means of the channels: what IN alone would lose.

    m_c = mean of channel c over the pixels, z = (m - mean_c m) / sqrt(var_c m + eps), var_c unbiased.
    Shapes: x (B, C, H, W); gamma, alpha, beta (C,), (1, C) or (B, C).
    """
    b, c, h, w = x.shape
    m = x.mean((2, 3))
    variance, mean = torch.var_mean(m, 1, keepdim=True)
    z = (m - mean) * (variance + EPS).rsqrt()
    # As one sample of B C groups, scale and shift may differ from sample to sample and cost no further pass over x.
    scale, shift = gamma.expand(b, c).flatten(), (gamma * alpha * z + beta).flatten()
    return group_norm(x.reshape(1, b * c, h, w), b * c, scale, shift, EPS).reshape(x.shape)


class InstanceNormPlus(nn.Module):
    """InstanceNorm++ (NCSNv2): the same at every noise level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(channels))
        self.gamma = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return instance_norm_plus(x, self.gamma, self.alpha, self.beta)


class ConditionalInstanceNormPlus(nn.Module):
    """Conditional InstanceNorm++ (NCSN): gamma, alpha, beta are a row of a table, chosen by the noise label."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.embed = Embedding(num_classes, 3 * channels)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return instance_norm_plus(x, *self.embed(label).chunk(3, dim=1))


class NoNorm(nn.Module):
    """The identity, where NCSN normalises and NCSNv2 does not."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return x


class ResidualBlock(nn.Module):
    """y = shortcut(x) + conv2(elu(normalize2(conv1(elu(normalize1(x)))))).

    Both conv2 and the shortcut halve the resolution if `down`. Shapes: x (B, c_in, H, W) -> (B, c_out, H', W').
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        norm: Norm,
        *,
        down: bool = False,
        dilation: int = 1,
        has_shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = Conv(c_in, c_in, dilation=dilation)
        self.normalize2 = norm(c_in)
        self.conv2 = ConvMeanPool(c_in, c_out, 3) if down else Conv(c_in, c_out, dilation=dilation)
        self.shortcut: nn.Module | None = None
        if has_shortcut:
            self.shortcut = ConvMeanPool(c_in, c_out, 1) if down else Conv(c_in, c_out, dilation=dilation)
        self.normalize1 = norm(c_in)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = self.conv1(elu(self.normalize1(x, label)))
        h = self.conv2(elu(self.normalize2(h, label)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class ResidualStage(nn.ModuleList):
    """Two residual blocks; the first one changes width and resolution."""

    def __init__(self, c_in: int, c_out: int, norm: Norm, *, down: bool, dilation: int) -> None:
        has_shortcut = down or dilation > 1
        first = ResidualBlock(c_in, c_out, norm, down=down, dilation=dilation, has_shortcut=has_shortcut)
        super().__init__([first, ResidualBlock(c_out, c_out, norm, dilation=dilation)])

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        for block in self:
            x = block(x, label)
        return x


class ResidualConvUnits(nn.Module):
    """`blocks` times: x + two of (norm, elu, convolution). Shapes: (B, channels, H, W) -> the same."""

    def __init__(self, channels: int, blocks: int, norm: Norm) -> None:
        super().__init__()
        self.blocks = range(1, blocks + 1)
        for block, step in product(self.blocks, (1, 2)):
            self.add_module(f"{block}_{step}_norm", norm(channels))
            self.add_module(f"{block}_{step}_conv", Conv(channels, channels, bias=False))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        for block in self.blocks:
            h = x
            for step in (1, 2):
                h = self.get_submodule(f"{block}_{step}_norm")(h, label)
                h = self.get_submodule(f"{block}_{step}_conv")(elu(h))
            x = x + h
        return x


class MultiResolutionFusion(nn.Module):
    """Sum of norm, convolution and enlargement of every input: (B, C_i, H_i, W_i) -> (B, channels, H_0, W_0)."""

    def __init__(self, in_channels: Sequence[int], channels: int, norm: Norm) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Conv(c, channels) for c in in_channels)
        self.norms = nn.ModuleList(norm(c) for c in in_channels)

    def forward(self, inputs: Sequence[Tensor], label: Tensor) -> Tensor:
        size = inputs[0].shape[2:]
        h = [conv(norm(x, label)) for x, conv, norm in zip(inputs, self.convs, self.norms, strict=True)]
        return reduce(add, [enlarge(y, size) for y in h])


class ChainedResidualPooling(nn.Module):
    """h = elu(x) + p_1 + p_2, p_k = convolution of pool(norm(p_{k-1})), p_0 = elu(x)."""

    def __init__(self, channels: int, norm: Norm, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.convs = nn.ModuleList(Conv(channels, channels, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(norm(channels) for _ in range(2))

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = path = elu(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            path = conv(self.pool(norm(path, label)))
            h = h + path
        return h


class RefineBlock(nn.Module):
    """Adapts its inputs, fuses them at the resolution of the first, and pools: RefineNet, figure 2.

    Shapes: (B, C_i, H_i, W_i) for every input -> (B, channels, H_0, W_0). One input keeps its channels.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, norm: Norm, pool: Pool, *, output_blocks: int = 1
    ) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList(ResidualConvUnits(c, 2, norm) for c in in_channels)
        self.output_convs = ResidualConvUnits(channels, output_blocks, norm)
        self.msf = MultiResolutionFusion(in_channels, channels, norm) if len(in_channels) > 1 else None
        self.crp = ChainedResidualPooling(channels, norm, pool)

    def forward(self, inputs: Sequence[Tensor], label: Tensor) -> Tensor:
        adapted = [adapt(x, label) for x, adapt in zip(inputs, self.adapt_convs, strict=True)]
        h = adapted[0] if self.msf is None else self.msf(adapted, label)
        return self.output_convs(self.crp(h, label), label)


def mean_pool(x: Tensor) -> Tensor:
    """Mean of the 5x5 pixels around each, zeros outside: (B, C, H, W) -> the same."""
    # As a convolution because avg_pool2d takes several times as long on a CPU.
    window = x.new_full((x.shape[1], 1, POOL, POOL), 1 / POOL**2)
    return conv2d(x, window, padding=POOL // 2, groups=x.shape[1])


def max_pool(x: Tensor) -> Tensor:
    """Maximum of the 5x5 pixels around each: (B, C, H, W) -> the same."""
    # Channels-last because the other layout takes several times as long on a CPU.
    x = x.contiguous(memory_format=torch.channels_last)
    return max_pool2d(x, POOL, stride=1, padding=POOL // 2).contiguous()


def enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """x interpolated to (H', W') with its corners kept: (B, C, H, W) -> (B, C, H', W')."""
    if x.shape[2:] == size:
        return x
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


@torch.no_grad()
def initialise(network: nn.Module, generator: torch.Generator | None = None) -> None:
    """gamma, alpha ~ N(1, 0.02^2), beta = 0; convolutions uniform within 1 / sqrt(fan-in), biases too.

    Nothing is drawn on the meta device.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    for module in network.modules():
        if isinstance(module, Conv):
            bound = module.weight[0].numel() ** -0.5
            for parameter in module.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, InstanceNormPlus):
            module.alpha.normal_(1, 0.02, generator=generator)
            module.gamma.normal_(1, 0.02, generator=generator)
            module.beta.zero_()
        elif isinstance(module, ConditionalInstanceNormPlus):
            gamma_alpha, beta = module.embed.weight.tensor_split([2 * module.embed.embedding_dim // 3], dim=1)
            gamma_alpha.normal_(1, 0.02, generator=generator)
            beta.zero_()
