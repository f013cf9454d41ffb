"""A small classifier of handwritten digits, whose last hidden layer serves as features of a Frechet distance.

    conv 1-16, max pool,  conv 16-32, conv 32-32, max pool,  conv 32-64, conv 64-64, max pool,  linear 1024-64,
    linear 64-10

with 3 x 3 kernels, zero padding, a rectifier after each convolution and a SiLU after the first linear layer, where a
rectifier would leave many features at 0 for every image: the plain network of convolutions, pooling and fully
connected layers of Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied
to document recognition", Proceedings of the IEEE 1998, https://doi.org/10.1109/5.726791, with the rectifiers and small
kernels that came later. The features of natural images that a FID is made of say little about digits; those of a
network that tells digits apart do. There are few of them on purpose: the bias of the distance grows with their number.
"""

import torch
from torch import Tensor, nn

from prescore.models.layers import Conv2d, Linear, initialise

SHAPE = (1, 32, 32)
FEATURES = 64
WIDTHS = ((16,), (32, 32), (64, 64))  # of the convolutions between poolings


class DigitClassifier(nn.Module):
    """Logits of the ten digits: (B, 1, 32, 32) in [0, 1], digits light on dark -> (B, 10).

    Args:
        generator: source of the initial weights; None takes torch's current RNG.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels, side = SHAPE[0], SHAPE[-1]
        for widths in WIDTHS:
            pairs = zip((channels, *widths), widths, strict=False)
            self.stages.append(nn.ModuleList(Conv2d(n, m, 3) for n, m in pairs))
            channels, side = widths[-1], side // 2
        self.hidden = Linear(channels * side**2, FEATURES)
        self.logits = Linear(FEATURES, 10)
        initialise(self, generator)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer: (B, 1, 32, 32) -> (B, 64)."""
        for stage in self.stages:
            assert isinstance(stage, nn.ModuleList)
            for convolution in stage:
                x = convolution(x).relu()
            x = nn.functional.max_pool2d(x, 2)
        return nn.functional.silu(self.hidden(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))
