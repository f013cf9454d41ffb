"""NCSN and NCSNv2: RefineNets that predict the score at the noise levels of a table, known by their index.

Sources: Y. Song and S. Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", 2019,
https://arxiv.org/abs/1907.05600, appendix A (NCSN); "Improved Techniques for Training Score-Based Generative Models",
2020, https://arxiv.org/abs/2006.09011, section 3.2 and appendix B (NCSNv2). Their layers are in `refinenet`.

A tower of residual stages goes down in resolution and then on by dilation; refinement blocks come back up:

    x -> begin_conv -> res1 -> res2 -> res3 -> res4
                        |       |       |       |
      y <- end_conv <- refine4 <- refine3 <- refine2 <- refine1

NCSN's normalisations depend on the noise level. NCSNv2's do not: it divides its output by the noise level instead.
Names, shapes and order of the parameters are those of published checkpoints. Images may have any size from 4x4
pixels (NCSN, NCSNv2) or 16x16 (its deepest variant).
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from prescore.errors import PrescoreError, check_choice
from prescore.grid import geometric
from prescore.models.refinenet import (
    ConditionalInstanceNormPlus,
    Conv,
    InstanceNormPlus,
    NoNorm,
    Norm,
    Pool,
    RefineBlock,
    ResidualStage,
    initialise,
    max_pool,
    mean_pool,
)


class Stage(NamedTuple):
    """One row of a tower: its two residual blocks, and the refinement block that takes their output.

    `width` is in units of ngf. A stage either keeps its resolution, halves it (`down`), or is dilated.
    """

    res: str
    refine: str
    width: int
    down: bool = False
    dilation: int = 1


TOWERS: Mapping[str, tuple[Stage, ...]] = MappingProxyType(
    {
        "ncsnv2": (
            Stage("res1", "refine4", 1),
            Stage("res2", "refine3", 2, down=True),
            Stage("res3", "refine2", 2, dilation=2),
            Stage("res4", "refine1", 2, dilation=4),
        ),
        "deeper": (
            Stage("res1", "refine5", 1),
            Stage("res2", "refine4", 2, down=True),
            Stage("res3", "refine3", 2, down=True),
            Stage("res4", "refine2", 4, dilation=2),
            Stage("res5", "refine1", 4, dilation=4),
        ),
        "deepest": (
            Stage("res1", "refine5", 1),
            Stage("res2", "refine4", 2, down=True),
            Stage("res3", "refine3", 2, down=True),
            Stage("res31", "refine31", 2, down=True),
            Stage("res4", "refine2", 4, dilation=2),
            Stage("res5", "refine1", 4, dilation=4),
        ),
    }
)


class RefineNet(nn.Module):
    """What NCSN and NCSNv2 share: the way from an image through the tower and back, without the noise level.

    Args:
        tower: a row of `TOWERS`.
        channels: of the images.
        ngf: base width.
        norm: the normalisation of the residual blocks.
        refine_norm: that of the refinement blocks.
        pool: the window of 5x5 pixels of chained residual pooling.
        rescaled: images are in [-1, 1] already; otherwise they are in [0, 1].
    """

    def __init__(
        self,
        tower: Sequence[Stage],
        channels: int,
        ngf: int,
        norm: Norm,
        refine_norm: Norm,
        pool: Pool,
        *,
        rescaled: bool,
    ) -> None:
        super().__init__()
        if channels < 1 or ngf < 2:
            raise PrescoreError(f"channels {channels} and ngf {ngf}: at least 1 and 2 are needed")
        self.tower, self.rescaled = tower, rescaled
        self.begin_conv = Conv(channels, ngf)
        self.normalizer = norm(ngf)
        self.end_conv = Conv(ngf, channels)
        widths = [ngf * stage.width for stage in tower]
        for stage, c_in, c_out in zip(tower, [ngf, *widths], widths, strict=False):
            down, dilation = stage.down, stage.dilation
            self.add_module(stage.res, ResidualStage(c_in, c_out, norm, down=down, dilation=dilation))
        blocks = {}
        for i, stage in enumerate(tower):
            # What comes from below has been given this stage's width; the last stage has nothing below it.
            inputs = [widths[i]] if stage is tower[-1] else [widths[i], widths[i]]
            above, output_blocks = (widths[i - 1], 1) if i else (ngf, 3)
            blocks[stage.refine] = RefineBlock(inputs, above, refine_norm, pool, output_blocks=output_blocks)
        for name in sorted(blocks):
            self.add_module(name, blocks[name])

    def refine(self, x: Tensor, label: Tensor) -> Tensor:
        """f(x; label): (B, channels, H, W), (B,) or (1,) -> (B, channels, H, W). Raises PrescoreError if x is small."""
        least = 2 ** (1 + sum(stage.down for stage in self.tower))
        if min(x.shape[2:]) < least:
            raise PrescoreError(
                f"images of {x.shape[2]}x{x.shape[3]} pixels: this network needs {least}x{least} at least"
            )
        h = self.begin_conv(x if self.rescaled else 2 * x - 1)
        outputs = []
        for stage in self.tower:
            h = self.get_submodule(stage.res)(h, label)
            outputs.append(h)
        below: list[Tensor] = []
        for stage in reversed(self.tower):
            below = [self.get_submodule(stage.refine)([outputs.pop(), *below], label)]
        return self.end_conv(elu(self.normalizer(below[0], label)))


class NCSN(RefineNet):
    """Score s(x; label) of NCSN: (B, channels, H, W), (B,) or (1,) -> (B, channels, H, W).

    The noise levels themselves are not part of the network: label j is the j-th of a table.

    Args:
        channels: of the images.
        ngf: base width, 128 for CIFAR-10 and CelebA, 64 for MNIST.
        num_classes: number L of noise levels; labels are 0 to L - 1.
        rescaled: images are in [-1, 1] already; otherwise they are in [0, 1].
        generator: source of the initial weights; None takes torch's current RNG.

    Raises:
        PrescoreError: a width or a number is too small.
    """

    def __init__(
        self,
        channels: int,
        *,
        ngf: int = 128,
        num_classes: int = 10,
        rescaled: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        if num_classes < 2:
            raise PrescoreError(f"num_classes: {num_classes} noise levels; at least 2 are needed")

        def norm(width: int) -> nn.Module:
            return ConditionalInstanceNormPlus(width, num_classes)

        super().__init__(TOWERS["ncsnv2"], channels, ngf, norm, norm, mean_pool, rescaled=rescaled)
        initialise(self, generator)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.refine(x, label)

    @torch.no_grad()
    def divide_scores(self, sigmas: Sequence[float]) -> None:
        """Divide the scores of each label by its noise level, through the last normalisation's gamma.

        A score is of the size 1 / sigma. Starting there spares a training from growing some outputs a hundredfold.
        """
        gamma, _, _ = self.normalizer.get_parameter("embed.weight").chunk(3, dim=1)
        gamma.div_(torch.tensor(sigmas, dtype=gamma.dtype, device=gamma.device)[:, None])


class NCSNv2(RefineNet):
    """Score s(x; label) = f(x) / sigmas[label] of NCSNv2: (B, channels, H, W), (B,) or (1,) -> (B, channels, H, W).

    The levels `sigmas` are a buffer: geometric, from `sigma_begin` at label 0 down to `sigma_end`.

    Args:
        channels: of the images.
        ngf: base width.
        num_classes: number L of noise levels; labels are 0 to L - 1.
        sigma_begin, sigma_end: the highest and the lowest one.
        variant: "ncsnv2" (32 to 64 pixels), "deeper" (96 to 128) or "deepest" (256).
        rescaled: images are in [-1, 1] already; otherwise they are in [0, 1].
        generator: source of the initial weights; None takes torch's current RNG.

    Raises:
        PrescoreError: unknown variant, a width or a number that is too small, or levels that do not decrease.
    """

    sigmas: Tensor

    def __init__(
        self,
        channels: int,
        *,
        ngf: int = 128,
        num_classes: int = 232,
        sigma_begin: float = 50.0,
        sigma_end: float = 0.01,
        variant: Literal["ncsnv2", "deeper", "deepest"] = "ncsnv2",
        rescaled: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        check_choice("variant", variant, TOWERS)
        super().__init__(TOWERS[variant], channels, ngf, InstanceNormPlus, NoNorm, max_pool, rescaled=rescaled)
        with torch.device("cpu"):
            self.register_buffer("sigmas", geometric(num_classes, sigma_end, sigma_begin).float())
        initialise(self, generator)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.refine(x, label) / self.sigmas[label].reshape(-1, 1, 1, 1)
