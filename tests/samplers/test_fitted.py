"""Weights fitted to a model, and the sampler that takes them."""

import warnings
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise
from math import inf

import pytest
import torch

from prescore import calibrate, in_range, plan
from prescore.denoiser import Denoiser
from prescore.errors import ModelWarning, PrescoreError, SamplingError
from prescore.gaussian import Gaussian, cosine_gaussian
from prescore.grid import geometric
from prescore.operators import Pixel
from prescore.oracle import Full, MixtureOracle
from prescore.samplers import fitting, make_sampler, sample
from prescore.samplers.calibrated import FINE, Runs, follow
from prescore.samplers.choose import choose_measured
from prescore.statistics import Tuning, load_statistics, save_statistics
from prescore.statistics.fit import FittedWeights, cross_fit

LOW, HIGH, SHAPE, STEPS = 0.01, 50.0, (1, 2, 4), 5
RANGE = (-9.0, 9.0)


def model(function, **options):
    return Denoiser(function, SHAPE, LOW, HIGH, data_range=RANGE, dtype=torch.float64, name="toy", **options)


@cache
def mixture():
    """Two Gaussians that overlap."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64) / 2
    roots = torch.randn(2, 8, 8, generator=generator, dtype=torch.float64) / 2
    roots *= torch.logspace(0, -1, 8, dtype=torch.float64)
    oracle = MixtureOracle(torch.ones(2), means, Full(roots @ roots.mT + 1e-3 * torch.eye(8)))
    return model(oracle), oracle.sample(200, generator)


def few(monkeypatch, runs):
    """As many runs in search of levels, and no further trajectories."""
    monkeypatch.setattr(fitting, "MOST_CALLS", FINE + STEPS * (runs + len(fitting.RIVALS)))
    monkeypatch.setattr(fitting, "ENOUGH", 1)


@cache
def calibrated():
    with pytest.MonkeyPatch.context() as patch:
        few(patch, 8)
        denoiser, data = mixture()
        options = {"trajectories": 8, "tries": 0, "fitted": 24, "levels": 3}
        return calibrate(data, data_range=RANGE, model=denoiser, calls=STEPS, **options)


def fit():
    return calibrated().tuning.fits[STEPS]


def fitting_of(denoiser, reference, count=6, batch_size=64):
    runs = Runs(denoiser, reference, range(count), {}, batch_size, False)
    return fitting.Fitting(runs, follow(runs, geometric(FINE, LOW, HIGH, final_zero=True)))


def reference():
    return cosine_gaussian(calibrated())


def distance(x, y):
    return (x - y).square().flatten(1).mean(1).sqrt().mean().item()


def test_new_samples_are_nearer_to_the_flow_than_by_the_textbook_solvers():
    """And about as near as was measured: cross-fitted errors are those of samples that had no part in the fit."""
    new = fitting_of(mixture()[0], reference(), 200)
    errors = {}
    for name in ("p-fit", *fitting.RIVALS):
        decided = plan(mixture()[0], sampler=name, calls=STEPS, grid="auto", statistics=calibrated())
        start = new.runs.start(0, 200, decided.levels[0])
        errors[name] = new.error(new.followed.coordinates(decided.sample(range(200), initial=start, progress=False)))
    assert errors["p-fit"] < 0.9 * min(errors[name] for name in fitting.RIVALS)
    for name, error in errors.items():
        assert fit().errors[name] == pytest.approx(error, rel=0.35)


def test_on_the_gaussian_model_nothing_is_left_to_fit():
    C = torch.logspace(0, -3, 8, dtype=torch.float64).reshape(SHAPE)
    exact = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), Pixel(C))
    small = fitting_of(model(exact), exact)
    found = small.run(geometric(STEPS, 0.1, HIGH, final_zero=True))
    assert found.error < 1e-9
    torch.testing.assert_close(small.gains(found.X), torch.ones(len(small.edges) + 1, dtype=torch.float64))


def test_a_fit_that_finds_nothing_is_the_textbook_solver():
    nothing = replace(fit(), weights=0 * fit().weights, gains=torch.ones_like(fit().gains))
    statistics = replace(calibrated(), tuning=Tuning(fits={STEPS: nothing}))
    options = {"corrector": False, "warm_up": False}
    textbook = make_sampler("p-ode-3m", grid=fit().levels, reference=reference(), **options)
    own = make_sampler("p-fit", steps=STEPS, reference=reference(), statistics=statistics)
    x, y = (sample(mixture()[0], solver, seeds=range(3), progress=False) for solver in (own, textbook))
    torch.testing.assert_close(x, y, rtol=0, atol=1e-12)


def test_the_sampler_takes_the_steps_that_were_fitted(monkeypatch):
    """With the weights of all trajectories in the place of those of the folds, the fit is a run of the sampler."""
    small = fitting_of(mixture()[0], reference(), 12, batch_size=5)
    monkeypatch.setattr(
        fitting, "cross_fit", lambda *args: (w := cross_fit(*args)[0], w.expand(fitting.FOLDS, *w.shape))
    )
    found = small.run(fit().levels)
    whole = replace(fit(), levels=found.levels, edges=small.edges, weights=found.weights, gains=small.gains(found.X))
    statistics = replace(calibrated(), tuning=Tuning(fits={STEPS: whole}))
    own = make_sampler("p-fit", steps=STEPS, reference=reference(), statistics=statistics)
    start = small.runs.start(0, 12, found.levels[0])
    x = small.followed.coordinates(sample(mixture()[0], own, seeds=range(12), initial=start, progress=False))
    groups = small.groups[small.followed.kept]
    torch.testing.assert_close(x, found.X * whole.gains[groups], rtol=0, atol=1e-9)
    for g in range(len(whole.gains)):
        energies = [y[:, groups == g].square().sum().item() for y in (x, small.followed.X[-1])]
        assert energies[0] == pytest.approx(energies[1])


def test_states_between_the_levels_that_were_followed():
    """On the exact flow of a Gaussian that is not the reference."""
    C = torch.logspace(0, -2, 8, dtype=torch.float64).reshape(SHAPE)
    exact = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), Pixel(C))
    other = Gaussian(torch.zeros(SHAPE, dtype=torch.float64), Pixel(C.flip(-1)))
    small = fitting_of(model(exact), other)
    start, known = small.runs.start(0, 6, torch.tensor(HIGH)), small.followed

    def there(sigma):
        return exact.ode_solution(start, torch.tensor(HIGH), sigma)

    X = torch.stack([known.coordinates(there(s)) for s in known.levels.tolist()])
    D = torch.stack([known.coordinates(exact(there(s.item()), s)) for s in known.levels[:-1]])
    states, levels = replace(known, X=X, D=D), (HIGH, 20.0, 1.03, 0.2, 0.011, LOW, 0.0)
    few = states.only(levels)
    for sigma in levels:
        torch.testing.assert_close(states.at(sigma), known.coordinates(there(sigma)), rtol=1e-4, atol=1e-6)
        assert torch.equal(few.at(sigma), states.at(sigma))


def test_the_shortest_path_is_the_best_of_all():
    """Against all sequences of levels, on Euler's steps: C = 0 in all coordinates."""
    runs = Runs(mixture()[0], reference(), range(3), {}, 64, False)
    followed = follow(runs, geometric(10, LOW, HIGH, final_zero=True))
    followed = replace(followed, C=torch.zeros_like(followed.C))
    levels, X, D = followed.levels, followed.X, followed.D

    def total(path):
        ends = [(t / s, i, j) for i, j in pairwise(path) for s, t in [(levels[i], levels[j])]]
        # The flow of C = 0 takes everything to 0 but at the end.
        last = [D[i] + r * (X[i] - D[i]) - X[j] for r, i, j in ends if levels[j] == 0]
        return sum(e.square().mean().sqrt().item() for e in last)

    for steps in (1, 2, 4):
        found = [levels.tolist().index(level) for level in fitting.shortest_levels(followed, steps).tolist()]
        every = [(0, *path, 10) for path in combinations(range(2, 10, 2), steps - 1)]
        assert total(found) == pytest.approx(min(map(total, every)))


def test_the_calls_are_no_more_than_was_said(monkeypatch):
    rows, denoiser, most = [], mixture()[0], 110

    def counted(x, sigma):
        rows.append(len(x))
        return denoiser.function(x, sigma)

    monkeypatch.setattr(fitting, "MOST_CALLS", most)
    steps, tuning = calibrated().model.steps, calibrated().tuning
    fits = fitting.fit_weights(model(counted), reference(), steps, tuning, (4, 5), trajectories=4)
    assert fits.keys() == {4, 5}
    assert 0.9 * 2 * most < sum(rows) / 4 <= 2 * most


def test_the_weights_are_those_of_further_trajectories_too(monkeypatch):
    """Each with its own row of the condition; the errors are those of the trajectories that levels were searched on."""
    denoiser, condition = mixture()[0], {"shift": torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)}

    def shifted(x, sigma, shift):
        return denoiser.function(x - shift[..., None, None], sigma) + shift[..., None, None]

    monkeypatch.setattr(fitting, "MOST_CALLS", 2000)
    monkeypatch.setattr(fitting, "ENOUGH", 16)
    steps, tuning = calibrated().model.steps, calibrated().tuning
    options = {"trajectories": 4, "condition": condition, "batch_size": 5}
    found = fitting.fit_weights(model(shifted), reference(), steps, tuning, (STEPS,), **options)[STEPS]
    runs = Runs(model(shifted), reference(), range(16), condition, 16, False)
    whole = fitting.Fitting(runs, follow(runs, geometric(FINE, LOW, HIGH, final_zero=True)))
    same = whole.run(found.levels)
    assert found.count == 16
    torch.testing.assert_close(found.weights, same.weights, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.gains, whole.gains(same.X))
    ends = same.X * found.gains[whole.groups[whole.followed.kept]]
    assert found.errors["p-fit"] == pytest.approx(whole._distances(ends)[:4].mean().item())


def test_large_events_and_few_calls_allow_fewer_trajectories(monkeypatch):
    assert fitting.further(48, (5, 6, 8, 10), 3072, 16) > 100
    assert 0 < fitting.further(48, (5,), 3072, 16) < fitting.further(48, (5, 6), 3072, 16)
    assert fitting.further(48, (5,), 3072, 64) == 0  # whose one batch would be more than half of the calls
    assert fitting.further(48, (5, 6), 2**22, 16) == fitting.further(192, (5, 6), 3072, 16) == 0
    monkeypatch.setattr(fitting, "MOST_CALLS", FINE)
    assert fitting.further(48, (5,), 3072, 16) == 0


@pytest.mark.parametrize("one_is_left", [True, False])
def test_levels_on_which_the_fit_diverges_are_not_taken(monkeypatch, one_is_left):
    run, steps, tuning = fitting.Fitting.run, calibrated().model.steps, calibrated().tuning
    shortest = fitting.shortest_levels(fitting_of(mixture()[0], reference(), 4).followed, STEPS)

    def diverging(self, levels):
        if one_is_left and torch.equal(levels, shortest):
            return run(self, levels)
        raise SamplingError("the output of the model is not finite")

    few(monkeypatch, 6)
    monkeypatch.setattr(fitting.Fitting, "run", diverging)
    fits = fitting.fit_weights(mixture()[0], reference(), steps, tuning, (STEPS,), trajectories=4)
    assert [fit.levels.tolist() for fit in fits.values()] == [shortest.tolist()] * one_is_left


def test_the_file_and_the_range_keep_what_was_fitted(tmp_path):
    save_statistics(calibrated(), tmp_path / "s.safetensors")
    loaded = load_statistics(tmp_path / "s.safetensors").tuning.fits[STEPS]
    for name in ("levels", "edges", "weights", "gains"):
        assert torch.equal(getattr(loaded, name), getattr(fit(), name))
    assert (loaded.errors, loaded.count, loaded.model) == (fit().errors, 24, "toy")
    larger = in_range(calibrated(), (-27.0, 27.0)).tuning.fits[STEPS]
    torch.testing.assert_close(larger.levels, 3 * fit().levels)
    assert larger.errors["p-fit"] == pytest.approx(3 * fit().errors["p-fit"])


def test_a_plan_takes_the_least_measured_error_and_says_so():
    denoiser = mixture()[0]
    decided = plan(denoiser, calls=STEPS, statistics=calibrated())
    assert (decided.name, decided.calls) == ("p-fit", STEPS)
    assert torch.equal(decided.levels, fit().levels)
    assert f"{fit().errors['p-fit']:.3g} (p-fit)" in decided.reasons["sampler"]
    assert "24 samples of toy" in repr(decided)
    worse = replace(fit(), errors={**fit().errors, "p-fit": inf})
    statistics = replace(calibrated(), tuning=Tuning(fits={STEPS: worse}))
    assert plan(denoiser, calls=STEPS, statistics=statistics).name in fitting.RIVALS
    assert plan(denoiser, calls=STEPS, statistics=calibrated(), basis="frequency").name != "p-fit"


def test_a_fit_that_names_an_unknown_solver_is_one_line(tmp_path):
    """As of a damaged file, or one of a newer version; whether the solver is the best or not."""
    for error in (0.0, 100.0):
        named = replace(fit(), errors={**fit().errors, "nosuch": error})
        file = tmp_path / "a.statistics.safetensors"
        save_statistics(replace(calibrated(), tuning=Tuning(fits={STEPS: named})), file)
        for sampler in ("auto", "p-fit"):
            with pytest.raises(PrescoreError, match=rf"{file.name}: damaged.* fit of {STEPS} steps .* 'nosuch'"):
                plan(mixture()[0], sampler=sampler, calls=STEPS, statistics=file)


def test_what_was_not_fitted_is_refused():
    denoiser = mixture()[0]
    for asked in ({"calls": 7}, {"calls": STEPS, "sigma_max": 20.0}, {"grid": [50.0, 5.0, 0.5, 0.1, 0.05, 0.0]}):
        with pytest.raises(PrescoreError, match="sampler: no weights were fitted for p-fit with"):
            plan(denoiser, sampler="p-fit", statistics=calibrated(), **asked)
    with pytest.raises(PrescoreError, match="they were for 5; fit them by `prescore calibrate DATA --model MODEL"):
        plan(denoiser, sampler="p-fit", calls=7, statistics=calibrated())
    for wrong in (1, -2, 2.5):
        with pytest.raises(PrescoreError, match=f"fitted: {wrong} given; 0, or at least 2"):
            calibrate(mixture()[1], data_range=RANGE, model=denoiser, calls=5, fitted=wrong)
    with pytest.raises(PrescoreError, match="fitted: does nothing without calls"):
        calibrate(mixture()[1], data_range=RANGE, model=denoiser, fitted=4)


def test_fitted_weights_are_taken_where_they_are_clearly_better():
    known = {"levels": torch.ones(2), "edges": torch.ones(0), "weights": torch.ones(1, 1, 4), "gains": torch.ones(1)}
    fit = FittedWeights(**known, errors={}, count=9)
    for errors, name in (
        ({"p-fit": 0.85, "p-ode-3m": 1.0, "unipc": 1.2}, "p-fit"),
        ({"p-fit": 0.95, "p-ode-3m": 1.0, "unipc": 1.2}, "p-ode-3m"),
        ({"p-fit": 1.3, "p-ode-3m": 1.1, "unipc": 1.0}, "unipc"),
    ):
        assert choose_measured(replace(fit, errors=errors)).name == name


def test_weights_that_were_measured_under_other_guidance_are_not_chosen():
    known = calibrated()
    errors = dict.fromkeys(fit().errors, 1.0) | {"p-fit": 0.1}
    best = replace(known, tuning=replace(known.tuning, fits={STEPS: replace(fit(), errors=errors)}))
    alike = replace(best, model=replace(best.model, guidance=3.0))
    plain = replace(mixture()[0], statistics=best)
    strong = replace(plain, guidance=3.0)
    assert known.model.guidance == 1
    assert plan(plain, calls=STEPS).name == "p-fit"
    assert plan(replace(strong, statistics=alike), calls=STEPS).name == "p-fit"
    assert plan(plain, calls=STEPS).warnings == plan(replace(strong, statistics=alike), calls=STEPS).warnings == ()
    words = "levels follow from the network without guidance, the run is with guidance 3: measure it so by `.*ance 3 "
    words += "--class K`, K the class of the data, or --labels the array"
    with pytest.warns(ModelWarning, match=words):
        chosen = plan(strong, calls=STEPS)
    assert chosen.name != "p-fit"
    with pytest.warns(ModelWarning, match="the weights follow from the network without guidance, the run is with"):
        assert plan(strong, sampler="p-fit", steps=STEPS).settings["weights"] == "fitted"
    with pytest.warns(ModelWarning, match="with guidance 3, the run is without guidance: .* --model MODEL`"):
        plan(plain, calls=STEPS, statistics=alike)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan(strong, sampler="ddim", steps=STEPS).warnings == ()


def test_calibrate_remembers_the_guidance_of_the_model():
    denoiser, data = mixture()
    strong = replace(denoiser, guidance=2.0)
    assert calibrate(data, data_range=RANGE, model=strong, levels=2, trajectories=0).model.guidance == 2
