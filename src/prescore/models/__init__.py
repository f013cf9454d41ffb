"""Networks that open published checkpoints and that `prescore train` trains."""

from prescore.models.precond import EDMPrecond, IDDPMPrecond, Precond, VEPrecond, VPPrecond
from prescore.models.song_unet import SongUNet

__all__ = ["EDMPrecond", "IDDPMPrecond", "Precond", "SongUNet", "VEPrecond", "VPPrecond"]
