"""DhariwalUNet: the ADM network in the form of the EDM paper.

Sources: P. Dhariwal and A. Nichol, "Diffusion Models Beat GANs on Image Synthesis", 2021,
https://arxiv.org/abs/2105.05233, section 3; T. Karras et al., "Elucidating the Design Space of Diffusion-Based
Generative Models", 2022, https://arxiv.org/abs/2206.00364, Table 7 and appendix F.

The embedding modulates scale and shift of the features (adaptive group normalisation), and attention has heads of 64
channels. Names, shapes and order of the parameters are those of published checkpoints.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prescore.models.layers import (
    Block,
    BlockStyle,
    Conv2d,
    Linear,
    PositionalEmbedding,
    check_probabilities,
    check_resolution,
    drop_labels,
    group_norm,
    initialise,
)

CHANNELS_PER_HEAD = 64
STYLE = BlockStyle(eps=1e-5, k=1.0, adaptive_scale=True, projects_resampled=False, qkv_gain=1.0, out_gain=0.0)


class DhariwalUNet(nn.Module):
    """U-Net F(x; noise_labels): (B, in_channels, R, R), (B,) or (1,) -> (B, out_channels, R, R).

    Args:
        img_resolution: side R of the images, in pixels, divisible by 2^(levels - 1).
        in_channels, out_channels: channels of the input and the output.
        label_dim: width of the class label vector, 0 for an unconditional network.
        augment_dim: width of the augmentation label vector, 0 for none.
        model_channels: base width; `channel_mult` multiplies it level by level.
        channel_mult_emb: width of the embedding e, in base widths.
        num_blocks: residual blocks a level in the encoder (one more in the decoder).
        attn_resolutions: resolutions at which blocks have self-attention, in heads of 64 channels. A block of fewer
            channels has none, as in the checkpoints.
        dropout, label_dropout: probabilities in [0, 1], used while training; they draw from torch's current RNG.
        generator: source of the initial weights; None takes torch's current RNG.

    Raises:
        PrescoreError: a probability outside [0, 1], a resolution that cannot be halved once a level, or a width that
            cannot be split into groups for normalisation.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_probabilities(dropout=dropout, label_dropout=label_dropout)
        check_resolution(img_resolution, levels=len(channel_mult))
        self.img_resolution, self.in_channels, self.out_channels = img_resolution, in_channels, out_channels
        self.label_dim, self.augment_dim, self.label_dropout = label_dim, augment_dim, label_dropout
        self.emb_channels, self.dropout = model_channels * channel_mult_emb, dropout
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False, gain=0.0) if augment_dim else None
        self.map_layer0 = Linear(model_channels, self.emb_channels)
        self.map_layer1 = Linear(self.emb_channels, self.emb_channels)
        self.map_label = Linear(label_dim, self.emb_channels, bias=False, classes=True) if label_dim else None
        widths = [model_channels * m for m in channel_mult]
        skips = self._build_encoder(widths, num_blocks, attn_resolutions)
        width = self._build_decoder(skips, widths, num_blocks, attn_resolutions)
        self.out_norm = group_norm(width, STYLE.eps)
        self.out_conv = Conv2d(width, out_channels, 3, gain=0.0)
        initialise(self, generator, rule="default")

    def _block(
        self, c_in: int, c_out: int, *, up: bool = False, down: bool = False, has_attention: bool = False
    ) -> Block:
        heads = c_out // CHANNELS_PER_HEAD if has_attention else 0
        return Block(c_in, c_out, self.emb_channels, STYLE, up=up, down=down, heads=heads, dropout=self.dropout)

    def _build_encoder(self, widths: list[int], num_blocks: int, attn_resolutions: Sequence[int]) -> list[int]:
        """Fills `enc` and returns the widths of the skip connections, in the order they are pushed."""
        width = widths[0]
        self.enc = nn.ModuleDict(
            {f"{self.img_resolution}x{self.img_resolution}_conv": Conv2d(self.in_channels, width, 3)}
        )
        skips = [width]
        for level, level_width in enumerate(widths):
            r = self.img_resolution >> level
            if level > 0:
                self.enc[f"{r}x{r}_down"] = self._block(width, width, down=True)
                skips.append(width)
            for i in range(num_blocks):
                self.enc[f"{r}x{r}_block{i}"] = self._block(width, level_width, has_attention=r in attn_resolutions)
                width = level_width
                skips.append(width)
        return skips

    def _build_decoder(
        self, skips: list[int], widths: list[int], num_blocks: int, attn_resolutions: Sequence[int]
    ) -> int:
        """Fills `dec` and returns the width of its output."""
        self.dec = nn.ModuleDict()
        width, coarsest = skips[-1], len(widths) - 1
        for level in range(coarsest, -1, -1):
            r = self.img_resolution >> level
            if level == coarsest:
                self.dec[f"{r}x{r}_in0"] = self._block(width, width, has_attention=True)
                self.dec[f"{r}x{r}_in1"] = self._block(width, width)
            else:
                self.dec[f"{r}x{r}_up"] = self._block(width, width, up=True)
            for i in range(num_blocks + 1):
                c_in, width = width + skips.pop(), widths[level]
                self.dec[f"{r}x{r}_block{i}"] = self._block(c_in, width, has_attention=r in attn_resolutions)
        return width

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Embedding e of the noise level and the labels: (B or 1, model_channels * channel_mult_emb)."""
        # The noise level may come in a higher precision than the weights: it needs more than half of one has.
        e = self.map_noise(noise_labels).to(self.map_layer0.weight.dtype)
        if self.map_augment is not None and augment_labels is not None:
            e = e + self.map_augment(augment_labels.to(e.dtype))
        e = self.map_layer1(nn.functional.silu(self.map_layer0(e)))
        if self.map_label is not None and class_labels is not None:
            if self.training and self.label_dropout:
                class_labels = drop_labels(class_labels, self.label_dropout)
            e = e + self.map_label(class_labels.to(e.dtype))
        return nn.functional.silu(e)

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """F(x; noise_labels, ...). Labels: (B, label_dim) and (B, augment_dim), or one row for all; None is zero."""
        e = self.embed(noise_labels, class_labels, augment_labels)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, e) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, e)
        return self.out_conv(nn.functional.silu(self.out_norm(x)))
