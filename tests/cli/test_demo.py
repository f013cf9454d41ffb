"""`prescore demo`, with a tiny model in the place of the shipped one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import prescore
from prescore.metrics import Conditioning, power_spectrum_error

pytestmark = pytest.mark.usefixtures("shipped")


def test_the_table_says_what_the_library_measures(
    tmp_path: Path, cli: Callable[..., Any], shipped: str, statistics: Path
) -> None:
    out = tmp_path / "demo.png"
    code, text, err = cli("demo", "--out", out, "--n", 4, "--steps", 3, "--steps", 2, "--alpha", 4, "--seed", 9)
    assert (code, err) == (0, "")
    labels = ("plain predictor-corrector", "PDS", "preconditioned ODE (p-ode-3m)")
    rows = {
        label: [line[len(label) :].split() for line in text.splitlines() if line.startswith(label)] for label in labels
    }
    assert [[row[0] for row in rows[label]] for label in labels] == [["3", "2"], ["3", "2"], ["6", "4"]]
    assert [[row[2] for row in rows[label]] for label in labels] == [["6", "4"]] * 3  # network calls
    stats = prescore.load_statistics(statistics)
    M = prescore.frequency_preconditioner(stats, 4)
    samplers = {
        "PDS": prescore.make_sampler("pds", steps=2, preconditioner=M),
        "preconditioned ODE (p-ode-3m)": prescore.make_sampler("p-ode-3m", steps=4, reference=stats),
    }
    for label, sampler in samplers.items():
        conditioning = Conditioning()
        x = prescore.sample(prescore.load(shipped), sampler, seeds=range(9, 13), callback=conditioning, progress=False)
        expected = [power_spectrum_error(x, stats), conditioning.range, conditioning.variation]
        assert [float(word) for word in rows[label][-1][4:]] == pytest.approx(expected, rel=1e-3)
    assert str(out) in text.splitlines()[-1]


def test_the_picture_is_written_and_nothing_else(tmp_path: Path, cli: Callable[..., Any]) -> None:
    assert cli("demo", "--out", tmp_path / "demo.png", "--n", 4, "--steps", 2).code == 0
    assert [p.name for p in tmp_path.iterdir()] == ["demo.png"]
    assert len(np.unique(np.array(Image.open(tmp_path / "demo.png").convert("L")))) > 20


def test_alpha_is_chosen_as_elsewhere(tmp_path: Path, cli: Callable[..., Any], shipped: str) -> None:
    text = cli("demo", "--out", tmp_path / "demo.png", "--n", 1, "--steps", 9).out
    row = next(line for line in text.splitlines() if line.startswith("PDS"))
    chosen = prescore.plan(prescore.load(shipped), sampler="pds", steps=9).settings["alpha"]
    assert float(row.split()[2]) == chosen


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--n", 0], "n: 0"),
        (["--steps", 0], "steps: 0"),
        (["--alpha", 0.5, "--steps", 10], "alpha: 0.5"),
        (["--alpha", 0], "alpha: 0"),
        (["--out", "none/demo.png"], "none/demo.png"),
    ],
)
def test_bad_options_before_anything_is_drawn(
    tmp_path: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[object],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prescore.Plan, "sample", lambda *_, **__: pytest.fail("it sampled"))
    assert expected in refused("demo", *options)
    assert not list(tmp_path.iterdir())
