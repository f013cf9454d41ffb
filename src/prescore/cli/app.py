"""The commands, gathered."""

from typing import Annotated

import typer

from prescore.cli.calibrate import calibrate
from prescore.cli.compare import compare
from prescore.cli.convert import convert
from prescore.cli.demo import demo
from prescore.cli.evaluate import evaluate
from prescore.cli.info import info
from prescore.cli.options import Command, SampleCommand, TrainCommand
from prescore.cli.presets import presets
from prescore.cli.recipes import recipes
from prescore.cli.sample import sample
from prescore.cli.samplers import samplers
from prescore.cli.trace import trace
from prescore.cli.train import train

app = typer.Typer(
    help="Sample pretrained score-based and diffusion models in far fewer network calls, without retraining.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=SampleCommand)(sample)
app.command(cls=TrainCommand)(train)
for command in (samplers, presets, recipes, calibrate, evaluate, compare, trace, info, convert, demo):
    app.command(cls=Command)(command)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        from prescore.version import __version__

        print(f"prescore {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
