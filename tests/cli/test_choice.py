"""`--grid auto`, `--sampler auto` and `--calls` of `prescore sample`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prescore
from prescore.assets import STATISTICS_SUFFIX
from prescore.statistics import Tuning, save_statistics

Refused = Callable[..., str]


def test_calibrate_measures_steps_and_info_shows_them(calibrated: Path, cli: Callable[..., Any]) -> None:
    statistics = prescore.load_statistics(calibrated)
    errors = statistics.model.steps
    assert errors is not None
    assert errors.count == 2
    assert calibrated.stat().st_size < 40_000
    out = cli("info", calibrated).out
    assert "steps of solvers on 2 samples" in out
    assert "for --grid auto" in out
    assert "levels that served best where they were tried" in out
    assert set(statistics.tuning.rules) == {"unipc", "p-ode-3m"}


def test_steps_may_be_left_out(tmp_path: Path, calibrated: Path, model: Path, cli: Callable[..., Any]) -> None:
    data, out = calibrated.parent / "data.npz", tmp_path / "s"
    arguments = ("calibrate", data, "--out", out, "--model", model, "--levels", 3)
    assert cli(*arguments, "--trajectories", 0).code == 0
    assert prescore.load_statistics(out).model.steps is None


def test_levels_need_not_be_tried(
    tmp_path: Path, calibrated: Path, model: Path, cli: Callable[..., Any], refused: Refused
) -> None:
    data, out = calibrated.parent / "data.npz", tmp_path / "s"
    arguments = ("calibrate", data, "--out", out, "--model", model, "--levels", 3, "--trajectories", 2)
    assert "--tries: 3 given; 0 to 2, the number of trajectories" in refused(*arguments, "--tries", 3)
    assert "--tries: -1 given" in refused(*arguments, "--tries", -1)
    assert "--tries: does nothing without --model" in refused("calibrate", data, "--out", out, "--tries", 1)
    assert not out.exists()
    assert cli(*arguments, "--tries", 0).code == 0
    statistics = prescore.load_statistics(out)
    assert statistics.model.steps is not None
    assert statistics.tuning.rules == {}
    assert "tried" not in cli("info", out).out


def test_samples_take_the_levels_that_served_best(
    tmp_path: Path, calibrated: Path, model: Path, cli: Callable[..., Any]
) -> None:
    statistics = prescore.load_statistics(calibrated)
    errors = statistics.model.steps
    assert errors is not None
    out = tmp_path / f"own{STATISTICS_SUFFIX}"
    save_statistics(replace(statistics, tuning=Tuning(rules={"unipc": {6: 0.5}})), out)
    arguments = ("sample", model, "--sampler", "unipc", "--statistics", out, "--n", 1, "--grid", "auto", "--calls", 5)
    text = cli(*arguments, "--out", tmp_path / "a.npz").out
    assert "geometric, down to 0.5/T of the data's deviation, the best of those tried on tiny" in text


@pytest.mark.parametrize("name", ["dpmpp-2m", "p-ode-2m"])
def test_samples_take_the_measured_levels(
    tmp_path: Path, calibrated: Path, model: Path, cli: Callable[..., Any], name: str
) -> None:
    arguments = ("sample", model, "--sampler", name, "--statistics", calibrated, "--n", 2)
    code, out, err = cli(*arguments, "--grid", "auto", "--calls", 5, "--out", tmp_path / "a.npz")
    assert (code, err) == (0, "")
    assert f"equal errors of the steps of {name}, measured on tiny" in out
    levels = prescore.auto_grid(name, prescore.load_statistics(calibrated), 5).tolist()
    listed = ",".join(map(repr, levels))
    options = ("--statistics", calibrated) if name == "p-ode-2m" else ()
    again = ("sample", model, "--sampler", name, *options, "--n", 2, "--grid", listed, "--out", tmp_path / "b.npz")
    assert cli(*again).code == 0
    a, b = (np.load(tmp_path / file)["images"] for file in ("a.npz", "b.npz"))
    assert (a == b).all()


def test_where_no_levels_were_measured(
    tmp_path: Path, calibrated: Path, model: Path, statistics: Path, refused: Refused
) -> None:
    arguments = ("sample", model, "--sampler", "dpmpp-2m", "--grid", "auto", "--out", tmp_path / "a.npz")
    assert "--grid: tiny comes without statistics of its data" in refused(*arguments)
    assert "grid: auto needs what the steps" in refused(*arguments, "--statistics", statistics)
    narrowed = refused(*arguments, "--statistics", calibrated, "--sigma-max", 10)
    assert "auto was measured for noise from 0.01 to 50, 0.01 to 10 is asked for" in narrowed
    assert list(tmp_path.iterdir()) == []


def test_a_sampler_is_chosen(tmp_path: Path, calibrated: Path, model: Path, cli: Callable[..., Any]) -> None:
    arguments = ("sample", model, "--sampler", "auto", "--calls", 4, "--n", 2)
    code, out, _ = cli(*arguments, "--out", tmp_path / "a.npz")
    assert code == 0
    assert "unipc" in out
    assert "is not known" in out
    assert "4 network calls" in out
    code, out, _ = cli(*arguments, "--statistics", calibrated, "--out", tmp_path / "b.npz")
    assert code == 0
    assert "of the Gaussian model's error" in out
    assert "on 2 samples" not in out
    assert "on tiny" in out


def test_calls_beside_other_numbers(tmp_path: Path, model: Path, refused: Refused) -> None:
    arguments = ("sample", model, "--out", tmp_path / "a.npz", "--sampler")
    assert "--calls: says how long the run is" in refused(*arguments, "dpmpp-2m", "--calls", 5, "--steps", 5)
    assert "--calls: says how long the run is" in refused(*arguments, "dpmpp-2m", "--calls", 5, "--grid", "9,1,0")
    assert "calls: 0 is not a positive" in refused(*arguments, "auto", "--calls", 0)
    assert "it needs at least 13" in refused(*arguments, "pndm", "--calls", 9)
