"""The command line: `main`, and one file a command. Each command imports what it needs when it runs."""

import os
import signal
import sys
import threading
import warnings
from _thread import interrupt_main
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prescore.cli.streams import steady_streams
from prescore.errors import LONGEST, PrescoreError, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `prescore ARGUMENTS` (by default those of the process).

    Returns:
        The exit code: 0; 2 after a user's mistake, or if what was said could not be written to standard output; 130
        after Ctrl-C and 143 after SIGTERM, as shells have them. All but 0 come with one line on stderr. A reader of
        standard output who leaves, as `head` does, is no error, and the work is done.
    """
    os.environ["MPLBACKEND"] = "agg"  # pictures are files; that of the user may not even be known
    with steady_streams() as output, _interruptible(is_process=arguments is None) as received:
        try:
            with received.raising():
                code = _run(list(sys.argv[1:] if arguments is None else arguments), received)
            output.flush()
        except KeyboardInterrupt as interrupt:
            number = received() or signal.SIGINT
            code = _fail(f"interrupted{': ' if str(interrupt) else ''}{interrupt}", 128 + number)
        if code == 0 and output.error is not None and not isinstance(output.error, BrokenPipeError):
            code = _fail(f"standard output: cannot be written ({output.error.strerror})")
        return code


def _run(arguments: Sequence[str], received: Callable[[], int]) -> int:
    """The exit code of a command, which says what is wrong.

    Raises:
        KeyboardInterrupt: a signal was received; libraries may have made another exception of that.
    """
    try:
        return _called(arguments)
    except SystemExit as end:  # of code of the user's, which a model may be
        return _fail(f"the code of the model ended the program ({end.code})")
    except Exception as error:
        if received():
            raise KeyboardInterrupt from None
        return _fail(_described(error))


def _called(arguments: Sequence[str]) -> int:
    """The exit code of a command. Raises whatever it raises."""
    try:
        import typer

        from prescore.cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        raise PrescoreError("the command line needs typer; pip install '.[cli]' in the clone") from None
    command = typer.main.get_command(app)
    try:
        with _noting(), command.make_context("prescore", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


def _described(error: Exception) -> str:
    """What is wrong, in one line. Raises the error again if it is none that a user can do something about."""
    from prescore.denoiser import failure_of
    from prescore.limits import is_exhausted

    if isinstance(error, PrescoreError):
        return str(error)
    if is_exhausted(error):
        return "there is not enough memory for this; take less at once, or a smaller model"
    if (failure := failure_of(error)) is not None:
        return failure
    if isinstance(error, OSError):  # a path that the system refuses, wherever it is first looked at
        path = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return f"{path}cannot be used ({error.strerror or error})"
    if isinstance(error, UnicodeEncodeError) and any(
        "\ud800" <= c <= "\udfff" for c in error.object[error.start : error.end]
    ):
        return "a path that was given holds bytes that are no text, where text is needed; rename it"
    if hasattr(error, "format_message"):  # a usage error of click's or of typer's own, by typer's version
        context = getattr(error, "ctx", None)
        return f"{error.format_message()} (see {context.command_path if context else 'prescore'} --help)"
    raise error


class _Received:
    """The number of the signal that came, 0 before."""

    number = 0
    is_raising = False

    def __call__(self) -> int:
        return self.number

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise KeyboardInterrupt when one comes, or now if it came before; elsewhere it is noted alone."""
        self.is_raising = True
        try:
            if self.number:
                raise KeyboardInterrupt
            yield
        finally:
            self.is_raising = False


@contextmanager
def _interruptible(*, is_process: bool) -> Iterator[_Received]:
    """SIGTERM interrupts as Ctrl-C does, where what this yields is `raising`.

    A second one ends the process. Signals that whoever started the process ignores are left so. One that comes while
    Python cleans up, where exceptions are dropped, is not lost.

    Args:
        is_process: when this is left the process ends too, and nothing is to be said any more.
    """
    received = _Received()

    def interrupt(number: int, _: object) -> None:
        received.number = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)
        if received.is_raising:
            raise KeyboardInterrupt

    def swallowed(failure: Any) -> None:
        if failure.exc_type is not KeyboardInterrupt:
            hook(failure)
            return
        signal.signal(received.number, interrupt)  # and again, a moment later
        again = threading.Timer(0.01, interrupt_main, [received.number])
        again.daemon = True
        again.start()

    if threading.current_thread() is not threading.main_thread():  # which alone may listen to signals
        yield received
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    heard = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        sys.unraisablehook = swallowed
        for number in heard:
            signal.signal(number, interrupt)
        yield received
    finally:
        sys.unraisablehook = hook
        for number in heard:
            signal.signal(number, signal.SIG_DFL if is_process else before[number])


@contextmanager
def _noting() -> Iterator[None]:
    """Warnings of this library are notes of one line, to the user; those of others are shown as they were.

    What the system refuses to a helping thread, as TensorBoard has, is said by who started it, and not here.
    """
    with warnings.catch_warnings(), _quiet_threads():
        others: Callable[..., Any] = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if category.__module__.partition(".")[0] == "prescore":
                print("prescore: note:", printable(str(message), LONGEST), file=sys.stderr)
            else:
                others(message, category, *place, **options)

        warnings.showwarning = show
        yield


@contextmanager
def _quiet_threads() -> Iterator[None]:
    before = threading.excepthook
    threading.excepthook = lambda failure: None if issubclass(failure.exc_type, OSError) else before(failure)
    try:
        yield
    finally:
        threading.excepthook = before


def _fail(message: str, code: int = 2) -> int:
    print("prescore: error:", printable(message, LONGEST), file=sys.stderr)
    return code
