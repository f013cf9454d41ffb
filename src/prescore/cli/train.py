"""`prescore train`: train a small image denoiser, or go on with a run that was stopped."""

from pathlib import Path
from typing import Annotated

import typer

from prescore.data import load_images
from prescore.errors import PrescoreError
from prescore.training.loop import TrainingConfig
from prescore.training.loop import train as run

Option = typer.Option
DEFAULT = TrainingConfig()


def train(
    data: Annotated[Path, typer.Argument(help="Folder or zip of images, .npz, .npy or IDX file.")],
    out: Annotated[Path, Option(help="Folder of the run; one that holds a run with these settings is resumed.")],
    name: Annotated[str | None, Option(help="Name of the model; by default that of the folder.")] = None,
    key: Annotated[str | None, Option(help="Which array of an .npz holds the images.")] = None,
    pad: Annotated[int | None, Option(help="Surround the images by black up to this many pixels a side.")] = None,
    steps: Annotated[int, Option(help="Optimizer steps.")] = DEFAULT.steps,
    batch_size: Annotated[int, Option(help="Images a step.")] = DEFAULT.batch_size,
    learning_rate: Annotated[float, Option(help="Of Adam, after the warm-up.")] = DEFAULT.learning_rate,
    warmup: Annotated[int, Option(help="Steps over which the learning rate rises.")] = DEFAULT.warmup,
    cooldown: Annotated[int, Option(help="Last steps, over which it falls to 0.")] = DEFAULT.cooldown,
    clip: Annotated[float, Option(help="Largest norm of a gradient.")] = DEFAULT.clip,
    ema_decay: Annotated[float, Option(help="Decay of the weight average.")] = DEFAULT.ema_decay,
    noise: Annotated[str, Option(help="Noise levels: log-uniform (VE) or log-normal (EDM).")] = DEFAULT.noise,
    sigma_min: Annotated[float, Option(help="Smallest noise level, for data in [0, 1].")] = DEFAULT.sigma_min,
    sigma_max: Annotated[float, Option(help="Largest noise level.")] = DEFAULT.sigma_max,
    p_mean: Annotated[float | None, Option(help="Mean of ln sigma; log-normal only.", show_default="-1.2")] = None,
    p_std: Annotated[float | None, Option(help="Its standard deviation; log-normal only.", show_default="1.2")] = None,
    precision: Annotated[str, Option(help="float32, or bfloat16 for mixed precision.")] = DEFAULT.precision,
    seed: Annotated[int, Option(help="Decides the initial weights and every draw.")] = DEFAULT.seed,
    model_channels: Annotated[int, Option(help="Base width of the network.")] = DEFAULT.model_channels,
    channel_mult: Annotated[str, Option(help="Width of each level, in base widths, finest first.")] = "1,1,2,3",
    channel_mult_emb: Annotated[int, Option(help="Width of the embedding.")] = DEFAULT.channel_mult_emb,
    num_blocks: Annotated[int, Option(help="Residual blocks a level.")] = DEFAULT.num_blocks,
    attn_resolutions: Annotated[str, Option(help="Resolutions with attention, in pixels; '' for none.")] = "8",
    dropout: Annotated[float, Option(help="Probability of dropout.")] = DEFAULT.dropout,
    device: Annotated[str, Option(help="Where the network is: cpu, cuda, ...")] = "cpu",
    checkpoint_every: Annotated[int, Option(help="Steps between checkpoints.")] = 500,
    progress: Annotated[bool, Option(help="Show a progress bar.")] = True,
) -> None:
    """Train an image denoiser (SongUNet, EDM preconditioning) and write OUT/model.safetensors.

    The run can be stopped by Ctrl-C at any time; the same command goes on where it was, and gives the same weights
    as a run that was never stopped. OUT also receives the checkpoint and loss.csv.
    """
    if noise != "log-normal" and (p_mean, p_std) != (None, None):
        raise PrescoreError(f"--p-mean, --p-std: belong to --noise log-normal, not {noise}")
    config = TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup=warmup,
        cooldown=cooldown,
        clip=clip,
        ema_decay=ema_decay,
        noise=noise,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        P_mean=DEFAULT.P_mean if p_mean is None else p_mean,
        P_std=DEFAULT.P_std if p_std is None else p_std,
        precision=precision,
        seed=seed,
        model_channels=model_channels,
        channel_mult=_integers("--channel-mult", channel_mult),
        channel_mult_emb=channel_mult_emb,
        num_blocks=num_blocks,
        attn_resolutions=_integers("--attn-resolutions", attn_resolutions),
        dropout=dropout,
    )
    images = load_images(data, key=key, pad=pad)
    result = run(
        images,
        config,
        out,
        name=name or out.resolve().name,
        device=device,
        progress=progress,
        checkpoint_every=checkpoint_every,
    )
    typer.echo(f"{result.model}: step {result.steps} of {steps}, {result.seconds:.0f} s, loss {result.loss:.4f}")
    if not result.is_finished:
        typer.echo("stopped; the same command goes on from here")


def _integers(option: str, text: str) -> tuple[int, ...]:
    """ "1,2" -> (1, 2)."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise PrescoreError(f"{option}: {text!r} is not a list of integers such as 1,2,2") from None
