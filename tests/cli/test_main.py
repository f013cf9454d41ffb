"""The command line as a whole: help, version, and mistakes that come before any command."""

import os
import runpy
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import prescore
from prescore.cli import main
from prescore.errors import PrescoreError

COMMANDS = ("sample", "samplers", "calibrate", "evaluate", "compare", "convert", "info", "train", "recipes", "demo")


def test_without_arguments_there_is_help(cli: Callable[..., Any]) -> None:
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert all(command in out for command in COMMANDS)


def test_ctrl_c_while_python_cleans_up_is_not_lost(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)  # what this raises is dropped

    def find(*_: object) -> None:
        Interrupting()
        time.sleep(5)

    monkeypatch.setattr("prescore.samplers.find_sampler", find)
    before = sys.unraisablehook
    assert cli("samplers", "pc") == (130, "", "prescore: error: interrupted\n")
    assert sys.unraisablehook is before


def test_ctrl_c_that_a_library_makes_another_error_of_is_ctrl_c(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    monkeypatch.setattr("prescore.samplers.find_sampler", find)
    assert cli("samplers", "pc") == (130, "", "prescore: error: interrupted\n")


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate")]
)
def test_too_little_memory_is_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhaust(*_: object) -> None:
        raise error

    monkeypatch.setattr("prescore.samplers.find_sampler", exhaust)
    assert "there is not enough memory for this" in refused("samplers", "pc")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(cli: Callable[..., Any], command: str, flag: str) -> None:
    code, out, err = cli(command, flag)
    assert (code, err) == (0, "")
    assert f"prescore {command}" in out


def test_the_help_of_sample_says_where_the_options_of_samplers_are(cli: Callable[..., Any]) -> None:
    assert "prescore samplers NAME" in " ".join(cli("sample", "--help").out.split())
    assert "--level-steps" in cli("samplers", "ald").out


def test_version(cli: Callable[..., Any]) -> None:
    assert cli("--version") == (0, f"prescore {prescore.__version__}\n", "")


def test_usage_errors_are_one_line(refused: Callable[..., str]) -> None:
    assert "samplers" in refused("sampler")
    assert "--out" in refused("sample", "mnist-ve")
    assert "--steps" in refused("sample", "mnist-ve", "--out", "a.png", "--steps", "many")
    assert "--stepz" in refused("sample", "mnist-ve", "--out", "a.png", "--stepz", "3")
    assert "prescore sample --help" in refused("sample")
    assert "extra argument" in refused("sample", "mnist-ve", "--out", "a.png", "more")


def test_without_typer_one_line_says_how_to_get_it(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    assert "pip install '.[cli]' in the clone" in refused("--version")


def test_another_missing_module_is_not_mistaken_for_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prescore.cli.app", None)
    with pytest.raises(ModuleNotFoundError, match=r"prescore\.cli\.app"):
        main(["--version"])


def test_ctrl_c_is_one_line(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prescore.samplers.find_sampler", interrupt)
    assert cli("samplers", "pc") == (130, "", "prescore: error: interrupted\n")


def test_sigterm_is_one_line_and_what_was_heard_before_is_heard_again(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prescore.samplers.find_sampler", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert cli("samplers", "pc") == (143, "", "prescore: error: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_is_ignored_stays_so(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prescore.version.__version__", Raising())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert cli("--version") == (0, "prescore 1.2.3\n", "")


class Raising:
    """A version in which Ctrl-C is pressed."""

    def __format__(self, _: str) -> str:
        signal.raise_signal(signal.SIGINT)
        return "1.2.3"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "Permission denied", "locked/a"), "locked/a: cannot be used (Permission denied)"),
        (OSError(36, "File name too long"), "cannot be used (File name too long)"),
        (UnicodeEncodeError("utf-8", "na\udcff", 2, 3, "surrogates"), "a path that was given holds bytes"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("prescore.samplers.find_sampler", refuse)
    assert expected in refused("samplers", "pc")


def test_warnings_of_the_library_are_notes(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = type("DataWarning", (UserWarning,), {"__module__": "prescore.data"})

    def warn(*_: object) -> None:
        warnings.warn("3 files were\nleft out", ours, stacklevel=1)
        warnings.warn("of another library", UserWarning, stacklevel=1)
        raise PrescoreError("enough")

    monkeypatch.setattr("prescore.samplers.find_sampler", warn)
    shown: list[str] = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: shown.append(str(message))
        _, _, err = cli("samplers", "pc")
    assert err.startswith("prescore: note: 3 files were left out\n")
    assert err.endswith("left out\nprescore: error: enough\n")
    assert shown == ["of another library"]


def test_a_reader_who_leaves_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["--version"]) == 0
    assert capsys.readouterr().err == ""


def test_python_m_prescore(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["prescore", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("prescore", run_name="__main__")
    assert end.value.code == 0
    assert prescore.__version__ in capsys.readouterr().out
