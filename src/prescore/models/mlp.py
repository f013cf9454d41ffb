"""A residual multilayer perceptron for small events that need no convolutions, such as latents.

Every number sees every other in each layer, at the cost of two multiplications a weight: for some hundred numbers this
is a hundredth of the work of a U-Net, whose weights are used again at each pixel.

Source: the residual block with a noise embedding is that of Y. Song et al., "Score-Based Generative Modeling through
Stochastic Differential Equations", 2021, https://arxiv.org/abs/2011.13456, appendix H, with matrices for convolutions.
"""

import torch
from torch import Tensor, nn

from prescore.errors import PrescoreError
from prescore.models.layers import FourierEmbedding, Linear, initialise

EPS = 1e-6
NEARLY_ZERO = 1e-5


class MLPBlock(nn.Module):
    """y = h + layer1(silu(layer0(silu(norm h)) + affine e)): (B, width), (B or 1, width) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.layer0 = Linear(width, width)
        self.affine = Linear(width, width)
        self.layer1 = Linear(width, width, gain=NEARLY_ZERO)

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        inner = self.layer0(nn.functional.silu(self.norm(h)))
        return h + self.layer1(nn.functional.silu(inner + self.affine(e)))


class ScoreMLP(nn.Module):
    """F(x; noise_labels): (B, in_channels, R, R), (B,) or (1,) -> (B, in_channels, R, R).

    Args:
        img_resolution, in_channels: R and the number of channels of the event.
        width: of the hidden layers, even.
        num_blocks: residual blocks.
        generator: source of the initial weights; None takes torch's current RNG.

    Raises:
        PrescoreError: the width is odd.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        *,
        width: int = 512,
        num_blocks: int = 3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise PrescoreError(f"width: {width} is not a positive even number")
        size = in_channels * img_resolution**2
        self.map_noise = FourierEmbedding(width, scale=1.0)
        self.map_layer = Linear(width, width)
        self.first = Linear(size, width)
        self.blocks = nn.ModuleList(MLPBlock(width) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.last = Linear(width, size, gain=NEARLY_ZERO)
        initialise(self, generator)

    def forward(self, x: Tensor, noise_labels: Tensor) -> Tensor:
        e = nn.functional.silu(self.map_layer(self.map_noise(noise_labels).to(x.dtype)))
        h = self.first(x.flatten(1))
        for block in self.blocks:
            h = block(h, e)
        return self.last(nn.functional.silu(self.norm(h))).reshape(x.shape)
