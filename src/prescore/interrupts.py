"""Ctrl-C and SIGTERM while a command is still being imported: one line, not a traceback from the middle of torch.

`prescore.cli.main` has its own answer to both; until it runs, nothing is there that would have to be cleared away.
"""

import os
import signal
import sys
from contextlib import suppress
from itertools import pairwise


def quiet_start() -> None:
    """End the process at once, with 130 or 143, if it is a command; programs that import the library are left alone."""
    if not is_command(sys.argv, sys.orig_argv):
        return
    with suppress(ValueError):  # only the main thread may listen to signals
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # else it is ignored
                signal.signal(number, _end)


def is_command(arguments: list[str], words: list[str]) -> bool:
    """Whether a process is `prescore ...` or `python -m prescore ...`.

    Args:
        arguments: `sys.argv`, whose first is "-m" as long as the module is looked for.
        words: `sys.orig_argv`, the interpreter's options included.
    """
    if arguments[:1] == ["-m"]:
        return any(pair == ("-m", "prescore") for pair in pairwise(words)) or "-mprescore" in words
    return os.path.basename(arguments[0] if arguments else "") in ("prescore", "prescore.exe")


def _end(number: int, _: object) -> None:
    with suppress(OSError):
        os.write(2, b"prescore: error: interrupted\n")
    os._exit(128 + number)
