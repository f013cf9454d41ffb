"""Non-leaky augmentation: images are transformed while training, and the network is told how.

Each transformation has a random parameter a_i, and the network receives 9 augmentation labels made of them:

    transformation             parameter                                  labels
    mirror left to right       a0 in {0, 1}                               a0
    mirror top to bottom       a1 in {0, 1}                               a1
    scale by 2^(0.2 a2)        a2 ~ N(0, 1)                               a2
    rotate by a3               a3 ~ U(-pi, pi)                            cos a3 - 1, sin a3
    stretch by 2^(0.2 a5)      a5 ~ N(0, 1), direction a4 ~ U(-pi, pi)    a5 cos a4, a5 sin a4
    translate by R / 8 (a6, a7)   a6, a7 ~ N(0, 1)                        a6, a7

The left-right mirror is always on (a0 is 1 half of the time); each other line is on with probability p, and its
parameters are 0 otherwise. All labels are 0 exactly where nothing was done, so that a model that is sampled with labels
0 knows the untouched images alone: what augmentation does to the others does not leak into samples.

Source: T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
https://arxiv.org/abs/2206.00364, appendix F.2 and Table 6. There pixels are interpolated by a wavelet filter, here by
the bicubic one, and the images are continued by reflection at their edges in both: such traces are part of what the
labels announce.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

LABELS = 9
SCALE, STRETCH, SHIFT = 0.2, 0.2, 1 / 8


def draw_augmentation(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Parameters a_0 to a_7 of `count` images: (count, 8), float32."""
    mirrors = (torch.rand(count, 2, generator=generator) < 0.5).float()
    normals = torch.randn(count, 4, generator=generator)
    angles = (2 * torch.rand(count, 2, generator=generator) - 1) * math.pi
    is_on = (torch.rand(count, 5, generator=generator) < probability).float()
    top, scale, rotation, stretch, shift = is_on.unbind(1)
    parameters = [mirrors[:, 0], mirrors[:, 1] * top, normals[:, 0] * scale, angles[:, 0] * rotation]
    parameters += [angles[:, 1] * stretch, normals[:, 1] * stretch, normals[:, 2] * shift, normals[:, 3] * shift]
    return torch.stack(parameters, 1)


def augmentation_labels(a: Tensor) -> Tensor:
    """The labels of parameters (B, 8): (B, 9)."""
    a0, a1, a2, a3, a4, a5, a6, a7 = a.unbind(1)
    return torch.stack([a0, a1, a2, a3.cos() - 1, a3.sin(), a5 * a4.cos(), a5 * a4.sin(), a6, a7], 1)


def augmented(x: Tensor, a: Tensor) -> Tensor:
    """Images (B, C, R, R), transformed as the parameters (B, 8) say; those whose parameters are 0 are returned as they
    are, and mirrors and nothing else move pixels without interpolation."""
    x = torch.where(a[:, 0, None, None, None] == 1, x.flip(3), x)
    x = torch.where(a[:, 1, None, None, None] == 1, x.flip(2), x)
    is_warped = (a[:, [2, 3, 5, 6, 7]] != 0).any(1)
    if not is_warped.any():
        return x
    x = x.clone()
    x[is_warped] = _warped(x[is_warped], a[is_warped])
    return x


def _warped(x: Tensor, a: Tensor) -> Tensor:
    """x moved by p -> A p + shift, p in pixels from the centre, where A stretches, then scales, then rotates."""
    _, _, a2, a3, a4, a5, a6, a7 = a.double().unbind(1)
    size = x.shape[-1]
    along, across = 2 ** (STRETCH * a5), 2 ** (-STRETCH * a5)
    stretch = _rotation(a4) @ torch.diag_embed(torch.stack([along, across], 1)) @ _rotation(-a4)
    A = _rotation(a3) @ (2 ** (SCALE * a2)[:, None, None] * stretch)
    shift = SHIFT * size * torch.stack([a6, a7], 1)
    centres = torch.arange(size, dtype=torch.float64, device=x.device) - (size - 1) / 2
    to = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1)
    origin = torch.einsum("bij,bhwj->bhwi", torch.linalg.inv(A), to - shift[:, None, None])
    grid = (origin * 2 / size).to(x.dtype)
    return grid_sample(x, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


def _rotation(angle: Tensor) -> Tensor:
    """Rotations of the plane, (B,) -> (B, 2, 2)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
