"""The mask files of the authors of PDS, arrays of NumPy.

    frequency   R = log(1 + E|F x|^2), F the unnormalised Fourier transform over height and width, zero frequency first
    pixel       R = E[x x], without a logarithm

of images in [0, 1], each of shape (C, H, W). A mask is a preconditioner and no more: neither the mean of the data nor
their variance can be had from it, so that no Gaussian model and no alpha follow.

Source: https://github.com/fudan-zvg/PDS, mask_gen_demo.py, whose sampler takes them as freq_mask_path and
space_mask_path.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from prescore.data import open_regular, reading
from prescore.data.arrays import npy_header
from prescore.errors import PrescoreError, check_choice
from prescore.operators.frequency import Frequency, mirror
from prescore.operators.pixel import Pixel
from prescore.precondition.masks import inverse, normalise
from prescore.precondition.preconditioner import Preconditioner

SUFFIX = ".npy"
KINDS = ("frequency", "pixel")
MAX_BYTES = 2**28  # ten times as many as a mask of 1024 x 1024 pixels in float64 has
SLACK = 1e-4  # by which the power at k and -k may differ, relative to the largest: masks are made in float32
DIGITS = 16  # of a digest


@dataclass(frozen=True, eq=False)
class PublishedMask:
    """The array of one file.

    Attributes:
        R: as it is stored, (C, H, W), float64; not normalised.
        kind: "frequency" or "pixel".
        source, digest: path of the file, and the start of its SHA-256.
    """

    R: Tensor
    kind: Literal["frequency", "pixel"]
    source: str = ""
    digest: str = ""

    @property
    def event_shape(self) -> tuple[int, ...]:
        return tuple(self.R.shape)

    @property
    def facts(self) -> Mapping[str, object]:
        """What decides a sample, as JSON values."""
        name = "mask" if self.kind == "frequency" else "pixel_mask"
        return {name: self.source, f"{name}_sha256": self.digest}

    def preconditioner(self, alpha: float) -> Preconditioner:
        """M = F^-1[F[x] / R] or x / R, R normalised with this alpha, as `frequency_preconditioner` has it.

        Raises:
            PrescoreError: alpha < 1, or it is 1 and an entry is 0.
        """
        label, R = f"{self.kind} mask, alpha {alpha:g}", normalise(self.R, alpha)
        if self.kind == "pixel":
            return Preconditioner(Pixel(inverse(R, "entries")), label=label, alpha=float(alpha))
        weights = inverse((R + mirror(R, (-2, -1))) / 2, "frequencies")
        return Preconditioner(Frequency.from_full(weights, 2), label=label, alpha=float(alpha))


def is_mask(path: object) -> bool:
    """Whether a path is one of a mask, by its ending."""
    return isinstance(path, str | Path) and Path(path).suffix.lower() == SUFFIX


def load_mask(path: str | Path, kind: Literal["frequency", "pixel"] = "frequency") -> PublishedMask:
    """Read a mask. Nothing in the file is unpickled.

    Raises:
        PrescoreError: the file is not there, not an .npy of floating point, too large, or not a mask of this kind.
    """
    check_choice("kind", kind, KINDS)
    path = Path(path)
    with reading(path), open_regular(path) as file:
        array = npy_header(str(path), file, path.stat().st_size, "f", "a mask is floating point, (C, H, W)")
        if array.size > MAX_BYTES:
            raise PrescoreError(f"{path}: {array.size} bytes; a mask has at most {MAX_BYTES}")
        shape = array.shape[1:] if len(array.shape) == 4 and array.shape[0] == 1 else array.shape
        if len(shape) != 3 or 0 in shape:
            raise PrescoreError(f"{path}: an array of shape {array.shape}; a mask is (C, H, W), such as (3, 32, 32)")
        R = torch.from_numpy(array.read().astype("float64")).reshape(shape)
    if not R.isfinite().all() or (R < 0).any() or not R.max() > 0:
        raise PrescoreError(f"{path}: a mask has finite values of at least 0, and some above; these are not")
    if kind == "frequency" and (R - mirror(R, (-2, -1))).abs().max() > SLACK * R.max():
        raise PrescoreError(
            f"{path}: is not the same at k and -k, as the power of real images is with the zero frequency first; a "
            "mask of pixels is given as pixel_mask"
        )
    if kind == "pixel" and R.max() > 1 + SLACK:
        raise PrescoreError(
            f"{path}: values up to {R.max():.4g}; mean squares of images in [0, 1] are needed, and a mask of "
            "frequencies is given as statistics"
        )
    return PublishedMask(R, kind, str(path), hashlib.sha256(path.read_bytes()).hexdigest()[:DIGITS])
