"""The command line: `main`, and one file a command. Each command imports what it needs when it runs."""

import os
import sys
from collections.abc import Sequence
from typing import cast

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `prescore ARGUMENTS` (by default those of the process).

    Returns:
        The exit code: 0; 2 after a user's mistake; 130 after Ctrl-C. The last two come with one line on stderr.
    """
    try:
        import typer

        from prescore.cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        return _fail("the command line needs typer; pip install 'prescore[cli]'")
    from prescore.errors import PrescoreError

    # A usage error is click's or typer's own, by typer's version, and has no public name in common.
    usage_error = cast(type[typer.BadParameter], typer.BadParameter.__base__)
    command = typer.main.get_command(app)
    try:
        with command.make_context("prescore", list(sys.argv[1:] if arguments is None else arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except PrescoreError as error:
        return _fail(str(error))
    except usage_error as error:
        return _fail(f"{error.format_message()} (see {error.ctx.command_path if error.ctx else 'prescore'} --help)")
    except BrokenPipeError:  # who read the output has left, as `head` does; nothing may be flushed to them at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as interrupt:
        return _fail(f"interrupted{': ' if str(interrupt) else ''}{interrupt}", INTERRUPTED)
    return 0


def _fail(message: str, code: int = 2) -> int:
    print("prescore: error:", " ".join(message.split()), file=sys.stderr)
    return code
