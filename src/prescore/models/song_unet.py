"""SongUNet: the DDPM++ and NCSN++ networks in the form of the EDM paper.

Source: T. Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
https://arxiv.org/abs/2206.00364, Table 7 and appendix F; after Y. Song et al., "Score-Based Generative Modeling
through Stochastic Differential Equations", 2021, https://arxiv.org/abs/2011.13456, appendix H.

DDPM++ is the default; NCSN++ is `embedding_type="fourier"`, `channel_mult_noise=2`, `encoder_type="residual"`,
`resample_filter=(1, 3, 3, 1)`. Names, shapes and order of the parameters are those of published checkpoints.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prescore.errors import PrescoreError, check_choice
from prescore.models.layers import (
    Block,
    BlockStyle,
    Conv2d,
    FourierEmbedding,
    Linear,
    PositionalEmbedding,
    check_probabilities,
    check_resolution,
    check_taps,
    drop_labels,
    group_norm,
    initialise,
)

NEARLY_ZERO = 1e-5
STYLE = BlockStyle(
    eps=1e-6,
    k=math.sqrt(0.5),
    adaptive_scale=False,
    projects_resampled=True,
    qkv_gain=math.sqrt(0.2),
    out_gain=NEARLY_ZERO,
)
CHOICES = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "skip", "residual"),
    "decoder_type": ("standard", "skip"),
}


class SongUNet(nn.Module):
    """U-Net F(x; noise_labels): (B, in_channels, R, R), (B,) or (1,) -> (B, out_channels, R, R).

    Args:
        img_resolution: side R of the images, in pixels, divisible by 2^(levels - 1).
        in_channels, out_channels: channels of the input and the output.
        label_dim: width of the class label vector, 0 for an unconditional network.
        augment_dim: width of the augmentation label vector, 0 for none.
        model_channels: base width; `channel_mult` multiplies it level by level.
        channel_mult_emb, channel_mult_noise: widths of the embedding e and of its sinusoidal input, in base widths.
        num_blocks: residual blocks a level in the encoder (one more in the decoder).
        attn_resolutions: resolutions at which blocks have self-attention.
        dropout, label_dropout: probabilities in [0, 1], used while training; they draw from torch's current RNG.
        embedding_type, encoder_type, decoder_type: see `CHOICES`.
        resample_filter: taps of the separable FIR filter of the resamplings, an even number of them.
        patch_size: side p of the squares of pixels that are folded into channels first and unfolded last, so that the
            finest level has R / p pixels a side, which `attn_resolutions` counts too: for large images on few cores.
        generator: source of the initial weights; None takes torch's current RNG.

    Raises:
        PrescoreError: unknown choice, a filter that is none, a probability outside [0, 1], a resolution that cannot be
            halved once a level, or a width that cannot be split into groups for normalisation.
    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        *,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
        patch_size: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for (name, choices), value in zip(CHOICES.items(), (embedding_type, encoder_type, decoder_type), strict=True):
            check_choice(name, value, choices)
        check_taps("resample_filter", resample_filter)
        if len(resample_filter) % 2:
            raise PrescoreError(f"resample_filter: {list(resample_filter)}; an even number of taps is needed")
        check_probabilities(dropout=dropout, label_dropout=label_dropout)
        if patch_size < 1 or img_resolution % patch_size:
            raise PrescoreError(f"patch_size: {patch_size}; it has to divide the resolution {img_resolution}")
        resolution, area = img_resolution // patch_size, patch_size**2
        check_resolution(resolution, levels=len(channel_mult))
        self.patch_size, self.resolution = patch_size, resolution
        self.in_channels, self.out_channels = in_channels * area, out_channels * area  # of what the layers see
        self.label_dim, self.augment_dim, self.label_dropout = label_dim, augment_dim, label_dropout
        self.emb_channels = model_channels * channel_mult_emb
        self.dropout, self.filter = dropout, tuple(resample_filter)
        self.encoder_type, self.decoder_type = encoder_type, decoder_type
        self._build_embedding(embedding_type, model_channels * channel_mult_noise)
        widths = [model_channels * m for m in channel_mult]
        skips = self._build_encoder(model_channels, widths, num_blocks, attn_resolutions)
        self._build_decoder(skips, widths, num_blocks, attn_resolutions)
        initialise(self, generator)

    def _build_embedding(self, kind: str, n: int) -> None:
        self.map_noise = PositionalEmbedding(n, endpoint=True) if kind == "positional" else FourierEmbedding(n)
        self.map_label = Linear(self.label_dim, n) if self.label_dim else None
        self.map_augment = Linear(self.augment_dim, n, bias=False) if self.augment_dim else None
        self.map_layer0 = Linear(n, self.emb_channels)
        self.map_layer1 = Linear(self.emb_channels, self.emb_channels)

    def _block(
        self, c_in: int, c_out: int, *, up: bool = False, down: bool = False, has_attention: bool = False
    ) -> Block:
        return Block(
            c_in,
            c_out,
            self.emb_channels,
            STYLE,
            up=up,
            down=down,
            heads=1 if has_attention else 0,
            dropout=self.dropout,
            resample_filter=self.filter,
        )

    def _build_encoder(
        self, width: int, widths: list[int], num_blocks: int, attn_resolutions: Sequence[int]
    ) -> list[int]:
        """Fills `enc` and returns the widths of the skip connections, in the order they are pushed."""
        r = self.resolution
        self.enc = nn.ModuleDict({f"{r}x{r}_conv": Conv2d(self.in_channels, width, 3)})
        skips, aux_width = [width], self.in_channels
        for level, level_width in enumerate(widths):
            r = self.resolution >> level
            if level > 0:
                self.enc[f"{r}x{r}_down"] = self._block(width, width, down=True)
                aux_width = self._build_auxiliary_encoder(f"{r}x{r}", aux_width, width)
                skips.append(width)
            for i in range(num_blocks):
                has_attention = r in attn_resolutions
                self.enc[f"{r}x{r}_block{i}"] = self._block(width, level_width, has_attention=has_attention)
                width = level_width
                skips.append(width)
        return skips

    def _build_auxiliary_encoder(self, level: str, aux_width: int, width: int) -> int:
        """Layers that feed the shrunken input image into the level; returns the width of what they hand down."""
        if self.encoder_type == "skip":
            down = Conv2d(aux_width, aux_width, 0, down=True, resample_filter=self.filter)
            self.enc[f"{level}_aux_down"] = down
            self.enc[f"{level}_aux_skip"] = Conv2d(aux_width, width, 1)
        if self.encoder_type == "residual":
            down = Conv2d(aux_width, width, 3, down=True, resample_filter=self.filter, fused=True)
            self.enc[f"{level}_aux_residual"] = down
            return width
        return aux_width

    def _build_decoder(
        self, skips: list[int], widths: list[int], num_blocks: int, attn_resolutions: Sequence[int]
    ) -> None:
        self.dec = nn.ModuleDict()
        width, coarsest = skips[-1], len(widths) - 1
        for level in range(coarsest, -1, -1):
            r = self.resolution >> level
            if level == coarsest:
                self.dec[f"{r}x{r}_in0"] = self._block(width, width, has_attention=True)
                self.dec[f"{r}x{r}_in1"] = self._block(width, width)
            else:
                self.dec[f"{r}x{r}_up"] = self._block(width, width, up=True)
            for i in range(num_blocks + 1):
                c_in, has_attention = width + skips.pop(), i == num_blocks and r in attn_resolutions
                width = widths[level]
                self.dec[f"{r}x{r}_block{i}"] = self._block(c_in, width, has_attention=has_attention)
            if self.decoder_type == "skip" or level == 0:
                self._build_output(f"{r}x{r}", width, has_coarser=self.decoder_type == "skip" and level < coarsest)

    def _build_output(self, level: str, width: int, *, has_coarser: bool) -> None:
        """Layers that turn a level's features into an image, added to the enlarged coarser one if there is one."""
        if has_coarser:
            up = Conv2d(self.out_channels, self.out_channels, 0, up=True, resample_filter=self.filter)
            self.dec[f"{level}_aux_up"] = up
        self.dec[f"{level}_aux_norm"] = group_norm(width, STYLE.eps)
        self.dec[f"{level}_aux_conv"] = Conv2d(width, self.out_channels, 3, gain=NEARLY_ZERO)

    def embed(self, noise_labels: Tensor, class_labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        """Embedding e of the noise level and the labels: (B or 1, model_channels * channel_mult_emb)."""
        cos, sin = self.map_noise(noise_labels).chunk(2, dim=1)
        # The noise level may come in a higher precision than the weights: it needs more than half of one has.
        e = torch.cat([sin, cos], dim=1).to(self.map_layer0.weight.dtype)
        if self.map_label is not None:
            if class_labels is None:
                class_labels = e.new_zeros(1, self.label_dim)
            if self.training and self.label_dropout:
                class_labels = drop_labels(class_labels, self.label_dropout)
            e = e + self.map_label(class_labels.to(e.dtype) * math.sqrt(self.label_dim))
        if self.map_augment is not None and augment_labels is not None:
            e = e + self.map_augment(augment_labels.to(e.dtype))
        return nn.functional.silu(self.map_layer1(nn.functional.silu(self.map_layer0(e))))

    def forward(
        self,
        x: Tensor,
        noise_labels: Tensor,
        class_labels: Tensor | None = None,
        augment_labels: Tensor | None = None,
    ) -> Tensor:
        """F(x; noise_labels, ...). Labels: (B, label_dim) and (B, augment_dim), or one row for all; None is zero."""
        e = self.embed(noise_labels, class_labels, augment_labels)
        x, skips = self._encode(nn.functional.pixel_unshuffle(x, self.patch_size), e)
        return nn.functional.pixel_shuffle(self._decode(x, skips, e), self.patch_size)

    def _encode(self, x: Tensor, e: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips: list[Tensor] = []
        aux = x
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                aux = layer(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + layer(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + layer(aux)) * math.sqrt(0.5)
            else:
                x = layer(x, e) if isinstance(layer, Block) else layer(x)
                skips.append(x)
        return x, skips

    def _decode(self, x: Tensor, skips: list[Tensor], e: Tensor) -> Tensor:
        out, normed = None, x
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                out = layer(out)
            elif name.endswith("aux_norm"):
                normed = nn.functional.silu(layer(x))
            elif name.endswith("aux_conv"):
                out = layer(normed) if out is None else out + layer(normed)
            else:
                x = layer(torch.cat([x, skips.pop()], dim=1) if "_block" in name else x, e)
        assert out is not None
        return out
