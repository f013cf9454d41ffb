"""Every experiment of the PDS papers makes a quick run, and what it is built of is what it says."""

import argparse
import math

import formats
import numpy as np
import pytest
import torch
from test_experiments import experiment, quick

import prescore
from prescore import PrescoreError

NAMES = (
    "steps_grid",
    "distance_tables",
    "seconds_per_iteration",
    "subspace",
    "conditioning",
    "skew",
    "skew_steps",
    "alpha_samples",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Smooth pictures with a little noise: photographs in colour, and digits."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def pictures(n, side, channels):
        x = random.normal(size=(n, side, side, channels)).cumsum(1).cumsum(2)
        x = 25 * (x - x.mean((1, 2), keepdims=True)) / x.std() + 20 * random.normal(size=x.shape)
        return (128 + x).clip(0, 255).astype(np.uint8)

    np.savez(folder / "natural.npz", train=pictures(300, 32, 3), test=pictures(40, 32, 3))
    np.savez(folder / "digits.npz", train=pictures(100, 28, 1)[..., 0])
    return folder


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    """The numbers of a quick run, by name; each is made once."""
    made = {}
    arguments = {
        "distance_tables": ["--data", str(data / "natural.npz"), "--images", str(data / "digits.npz")],
        "subspace": ["--data", str(data / "natural.npz")],
        "alpha_samples": ["--data", str(data / "natural.npz")],
    }

    def result(name):
        if name not in made:
            published = "steps_grid_mnist_ve" if name == "steps_grid" else name
            folder = tmp_path_factory.mktemp(name)
            made[name] = quick(experiment(name), folder, *arguments.get(name, []), name=published)
        return made[name]

    return result


@pytest.mark.parametrize("name", NAMES)
def test_quick(results, name):
    assert results(name)


def test_steps_grid(results):
    runs = results("steps_grid")["runs"]
    assert runs.pop("true")["floor"] > 0
    names = "plain", "PDS", "p-ode-2m", "p-ode-3m"
    assert {(row["sampler"], row["T"]) for row in runs.values()} == {(name, T) for name in names for T in (2, 4)}
    for row in runs.values():
        each = 2 if row["sampler"] in ("plain", "PDS") else 1
        assert row["calls"] == each * row["steps"] == 2 * row["T"]
        assert row["spectrum_error"] > 0


def test_distance_tables(results):
    runs = results("distance_tables")["runs"].values()
    exact = [row for row in runs if row.get("denoiser") == "exact mixture" and "T" in row]
    calls = {row["method"]: row["calls"] for row in exact if row["T"] == 14}
    assert calls.pop("plain") == 28
    assert all(calls.pop(method) == 28 for method in list(calls) if method.startswith("PDS"))
    assert set(calls.values()) <= {13, 14}
    # F-PNDM needs more calls than 4.
    assert {row["method"] for row in exact if row["T"] == 4 and row["frechet"] is None} == {
        "PNDM (linear)",
        "PNDM (cosine)",
    }
    of_rule = [row for row in runs if row.get("readings") == "mixture of 8x8" and "T" in row]
    assert {(row["original_steps"], row["first"]) for row in of_rule} == {
        (rule, first) for rule in (None, 1000) for first in ("corrector", "predictor")
    }
    few = {row["method"]: row["frechet"] for row in exact if row["T"] == 4}
    assert few["p-ode-2m, VE range"] < few["plain"] / 10


def test_the_best_alpha_of_the_table_is_the_least_at_each_step_number():
    module = experiment("distance_tables")
    rows = [{"denoiser": "d", "floor": {"frechet": {"mean": 0.1, "spread": 0.0}}}]
    names = "DDPM", module.AUTOMATIC, "plain"  # in the order in which they were run
    rows += [{"denoiser": "d", "T": T, "method": name, "frechet": 9.0} for T in (5, 10) for name in names]
    for i, alpha in enumerate(module.ALPHAS):
        rows += [{"denoiser": "d", "T": 5, "method": f"PDS, alpha {alpha:g}", "frechet": None if i == 0 else 5.0 + i}]
        rows += [{"denoiser": "d", "T": 10, "method": f"PDS, alpha {alpha:g}", "frechet": 5.0 - i / 10}]
    found = module.Distances.of({str(i): row for i, row in enumerate(rows)}, "d", 7, (5, 10))
    assert found.rows[module.BEST] == [6.0, 5.0 - (len(module.ALPHAS) - 1) / 10]
    assert list(found.rows) == ["plain", module.AUTOMATIC, module.BEST, "DDPM"]
    assert found.ahead(found.rows["plain"]) == "T = 5, 10"
    assert found.ahead([5.5, None]) == "T = 10"


def test_the_readings_of_the_step_rule():
    """What is found of the runs of a case: the least of the alphas, and both rules beside each other."""
    readings = experiment("readings")
    runs = {"floor": {"readings": "d", "n": 8, "floor_of_readings": [0.1, 0.01]}}
    distances = {None: {"plain": 6.0, "automatic": 1.2, "2.5": 1.0, "5": None}, 1000: {"plain": 7.0, "2.5": 3.5}}
    for rule, kinds in distances.items():
        for kind, distance in kinds.items():
            facts = {"readings": "d", "n": 8, "T": 50, "original_steps": rule, "first": "corrector", "kind": kind}
            error = None if distance is None else 0.2
            runs |= {f"{rule} {kind}": facts | {"alpha": 2.5, "distance": distance, "error": error}}
    (found,) = readings.Found.all_of(runs)
    assert found.steps == [50]
    kept, ruled = readings.RULES
    assert found.readings == [(kept, "corrector"), (ruled, "corrector")]
    assert found.distance(kept, "corrector", "best", 50) == 1.0
    assert found.gain(kept, "corrector", 50) == 6.0
    assert found.gain(ruled, "corrector", 50) == 2.0
    assert found.nearer("best") == ([50], [], [])
    assert found.cell(kept, "corrector", "best", 50) == "1 ± 0.2 (2.5)"


def test_the_readings_are_samplers_of_the_rule(data):
    subjects, readings = experiment("subjects"), experiment("readings")
    case = readings.Case.exact("d", subjects.patches(data / "natural.npz", 10, True), [4])
    by_rule = case.run(4, 36, "corrector", "plain")
    decided = prescore.plan(case.denoiser, sampler="pc", steps=4, snr=0.48, **case.limits)
    assert by_rule["distance"] == case.measure(decided.sample(range(10), progress=False))
    assert by_rule["error"] > 0


def test_seconds_per_iteration(results):
    ((_, numbers),) = results("seconds_per_iteration")["runs"].items()
    assert {name: row["calls"] for name, row in numbers["samplers"].items()} == {
        "plain": 2,
        "PDS, frequency": 2,
        "PDS, frequency and pixel": 2,
        "p-ode-2m": 1,
        "p-ode-3m": 1,
    }
    assert all(row["step"] > 0 and row["runs"] >= 5 for row in numbers["samplers"].values())
    module = experiment("seconds_per_iteration")
    numbers = {"batch": 4, "network_call": 2.0, "samplers": {"plain": {"step": 0.5, "calls": 2}}}
    assert module.iteration(numbers, "plain", 8) == 2 * (2 * 2 + 0.5)


def test_subspace(results):
    rows = [row for row in results("subspace")["runs"].values() if "T" in row]
    for row in rows:
        if row["method"].startswith("subspace"):
            assert row["time"] < row["calls"]
            assert row["time"] <= 2 * row["T"]
            assert row["calls"] >= 2 * row["T"]
        else:
            assert row["time"] == row["calls"] == 2 * row["T"]


def test_conditioning(results):
    runs = results("conditioning")["runs"]
    assert runs.keys() == {f"mnist-ve, {name}" for name in ("plain", "PDS", "p-ode-2m", "p-ode-3m")}
    for run in runs.values():
        assert run["V_coo_end"] == run["V_along"][-1]
        assert run["sigma"][-1] == 0
        assert len(run["sigma"]) == len(run["V_along"]) == len(run["R_along"])


def test_skew(results):
    pictures = results("skew")["runs"]
    assert {name for name, gain in pictures["gain"].items() if gain < 1e-6} == {"S", "S4", "S5", "S6"}
    (point,) = (row for name, row in pictures.items() if name.startswith("steady state"))
    assert point["sampled"] == pytest.approx(point["closed"], rel=0.1)
    assert [pictures[name]["calls"] for name in ("none", "no corrector", "p-ode-3m")] == [8, 4, 8]
    assert pictures["S, omega 1000"]["difference"] < 1e-4
    assert pictures["S, omega 1000"]["step"] == pytest.approx(1, abs=1e-4)
    assert pictures["S1, omega 1000"]["step"] < 1e-4
    assert pictures["S1, omega 1000"]["difference"] > 1e-3


def test_skew_steps(results):
    rows = results("skew_steps")["runs"].values()
    assert {(row["T"], row["omega"], row["set"]) for row in rows} == {
        (T, omega, k) for T in (3, 4) for omega in ("none", "1", "1000", "no corrector") for k in (0, 1)
    }
    module = experiment("skew_steps")
    runs = {
        f"{o} {k}": {"T": 3, "omega": o, "set": k, "spectrum": s}
        for o, k, s in (("none", 0, 1.0), ("none", 1, 2.0), ("1", 0, 0.8), ("1", 1, 1.7), ("5", 0, None), ("5", 1, 2.5))
    }
    change, error = module.gain(runs, 3, "1")
    assert (change, error) == pytest.approx((-0.25, 0.05))
    assert module.gain(runs, 3, "5") == (0.5, 0.0)


def test_alpha_samples(results):
    rows = [row for row in results("alpha_samples")["runs"].values() if "T" in row]
    middle = {row["T"]: row["alpha"] for row in rows if row["factor"] == 1}
    for row in rows:
        assert (
            row["alpha"] is None
            if row["factor"] is None
            else row["alpha"] == pytest.approx(max(1, row["factor"] * middle[row["T"]]))
        )
    module = experiment("alpha_samples")
    runs = {
        f"{f} {k}": {"T": 9, "factor": f, "set": k, "frechet": d}
        for f, k, d in ((1.0, 0, 2.0), (1.0, 1, 4.0), (0.9, 0, 3.0), (0.9, 1, 4.0), (1.1, 0, None), (1.1, 1, 4.0))
    }
    assert module.ratios(runs, 9, 0.9) == [1.5, 1.0]
    assert module.change(runs, 9, 0.9) == "+25 ± 35 %"
    assert module.ratios(runs, 9, 1.1) == [1.0]


def test_a_preset_fixes_what_is_compared():
    """Plain and PDS with the preset's settings, at any T; the usual T is the preset's."""
    module = experiment("trained")
    model = module.Trained.open("mnist-ve", None, preset="pds-cifar10-t50")
    plain = model.plain(4)
    with pytest.warns(prescore.presets.PresetWarning):
        pds = model.pds(4)
    assert (plain.snr, plain.preconditioner, pds.snr, pds.preconditioner.alpha) == (0.16, None, 0.16, 1.8)
    parser = argparse.ArgumentParser()
    module.add_models_options(parser)
    parser.add_argument("--steps", type=int)
    assert module.steps_of(parser.parse_args(["--preset", "pds-cifar10-t50"]), 100) == 50
    assert module.steps_of(parser.parse_args(["--preset", "edm-cifar10", "--steps", "7"]), 100) == 7
    assert module.steps_of(parser.parse_args([]), 100) == 100


def test_any_checkpoint_with_its_configuration(tmp_path, monkeypatch):
    """As `prescore.load` opens it; and the texts say that it is no shipped model."""
    module = experiment("conditioning")
    path, opened = formats.write("score-sde", tmp_path, monkeypatch)
    x = torch.rand(20, *prescore.load(path, **opened).event_shape, generator=torch.Generator().manual_seed(0))
    prescore.save_statistics(prescore.calibrate(x), tmp_path / "s.safetensors")
    words = ["--models", str(path), "--config", opened["config"], "--statistics", str(tmp_path / "s.safetensors")]
    quick(module, tmp_path / "out", *words)
    text = " ".join((tmp_path / "out" / "conditioning.md").read_text().split())
    assert "Here is the model `checkpoint_7`, T = 4" in text
    assert "shipped" not in text
    described = experiment("subjects").described
    assert described(["mnist-ve"]) == "the shipped model `mnist-ve`"
    assert described(["mnist-ve", "natural-edm"]) == "the shipped models `mnist-ve` and `natural-edm`"
    assert described([str(tmp_path / "mine.pth"), "mnist-ve"]) == "the models `mine` and `mnist-ve`"


def test_the_steady_state_diverges_where_the_step_does():
    """a lam (1 + omega^2 q^2) = 2 with the largest |q|, 2."""
    module = experiment("skew")
    limit = math.sqrt(2 / 0.0512 - 1) / 2
    assert math.isfinite(module.steady_state(0.0512, 0.99 * limit))
    assert module.steady_state(0.0512, 1.01 * limit) == math.inf
    assert module.steady_state(1e-6, 1.0) == pytest.approx(1, abs=1e-5)


def test_a_file_needs_statistics(tmp_path):
    model = tmp_path / "model.safetensors"
    model.write_bytes((experiment("publish").ROOT / "src/prescore/assets/mnist-ve.safetensors").read_bytes())
    with pytest.raises(PrescoreError, match="--statistics"):
        experiment("trained").Trained.open(str(model), None)


def test_draws_from_the_gaussian_have_the_spectrum_of_the_statistics():
    module = experiment("trained")
    model = module.Trained.open("mnist-ve", None)
    power = torch.fft.rfft2(model.gaussian_draws(400) - model.statistics.moments.mean).abs().square().mean(0)
    known = model.statistics.moments.power_centred
    large = known > 1e-6 * known.max()
    assert (power / known)[large].log().mean().abs() < 0.01


def test_missing_data_are_one_line(tmp_path):
    for name in ("distance_tables", "subspace"):
        with pytest.raises(PrescoreError, match="--data"):
            experiment(name).main(["--quick", "--folder", str(tmp_path), "--data", str(tmp_path / "none.npz")])
