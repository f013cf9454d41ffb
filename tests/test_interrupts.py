import os
import signal
import subprocess
import sys

import pytest

from prescore.interrupts import is_command


@pytest.mark.parametrize(
    ("arguments", "words", "expected"),
    [
        (["-m"], ["python", "-X", "dev", "-m", "prescore", "info"], True),
        (["-m"], ["python", "-mprescore"], True),
        (["-m"], ["python", "-m", "pytest", "prescore"], False),
        (["/bin/prescore", "info"], ["python", "/bin/prescore", "info"], True),
        (["train.py"], ["python", "train.py", "-m", "prescore"], False),
        (["-c"], ["python", "-c", "import prescore"], False),
        ([], [], False),
    ],
)
def test_which_processes_are_commands(arguments, words, expected):
    assert is_command(arguments, words) is expected


SENT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "torch":  # the first of what takes seconds
            os.kill(os.getpid(), signal.Signals[os.environ["SENT"]])
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_while_torch_is_imported_is_one_line(tmp_path, name, code):
    (tmp_path / "sitecustomize.py").write_text(SENT)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = subprocess.run(
        [sys.executable, "-m", "prescore", "--version"],
        env=os.environ | {"PYTHONPATH": path, "SENT": name},
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert (result.returncode, result.stdout, result.stderr) == (code, "", "prescore: error: interrupted\n")
