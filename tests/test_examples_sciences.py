"""The scripts of examples/ run, and say what they should."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SCRIPTS = {"vectors": None, "signals": None, "azula_denoiser": "azula", "sbi_posterior": "sbi"}
MOST_LINES = 60


@pytest.fixture
def run(tmp_path):
    """What a script prints, or a skip where its package is not installed."""

    def output(name):
        if (needed := SCRIPTS[name]) is not None and importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
        command = [sys.executable, "-W", "ignore", str(FOLDER / f"{name}.py")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return output


@pytest.mark.parametrize("name", SCRIPTS)
def test_they_are_short(name):
    assert len((FOLDER / f"{name}.py").read_text().splitlines()) < MOST_LINES


def test_vectors(run):
    output = run("vectors")
    frechet, floor = map(float, re.search(r"frechet +(\S+) +\(true samples (\S+)\)", output).groups())
    assert frechet < floor + 0.05


def test_signals(run):
    errors = [float(error) for error in re.findall(r"spectrum error (\S+)", run("signals"))]
    assert errors[0] < 0.15
    assert errors[0] < errors[1]


def test_azula(run):
    assert run("azula_denoiser").count("(1000, 3)") == 2


def test_sbi(run):
    output = run("sbi_posterior")
    found = [float(word) for word in re.search(r"10 calls: .*deviations \[([^]]*)\]", output)[1].split()]
    assert all(0.5 < value < 2 for value in found)
