"""Networks that open published checkpoints and that `prescore train` trains."""

from prescore.models.dhariwal_unet import DhariwalUNet
from prescore.models.ncsn import NCSN, NCSNv2
from prescore.models.ncsnpp import NCSNpp
from prescore.models.precond import EDMPrecond, IDDPMPrecond, Precond, VEPrecond, VPPrecond
from prescore.models.song_unet import SongUNet
from prescore.models.vae import VAE

__all__ = [
    "NCSN",
    "VAE",
    "DhariwalUNet",
    "EDMPrecond",
    "IDDPMPrecond",
    "NCSNpp",
    "NCSNv2",
    "Precond",
    "SongUNet",
    "VEPrecond",
    "VPPrecond",
]
