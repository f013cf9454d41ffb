"""A run decided in Python: what the plan chooses, refuses and says, and that the command line decides the same."""

import json
import re
import sys
import warnings
from dataclasses import replace
from functools import cache, partial
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
import torch

import prescore
from prescore import calibrate, draw, plan
from prescore.assets import shipped_models
from prescore.cli import main
from prescore.denoiser import Denoiser, guided
from prescore.errors import ModelWarning, PrescoreError
from prescore.gaussian import Gaussian, error_share, frequency_gaussian
from prescore.operators import Identity
from prescore.oracle import Diagonal, MixtureOracle
from prescore.plan import USUAL_CALLS, WEAKEST_ALPHA, hiding_level
from prescore.precondition import Preconditioner, frequency_preconditioner, radial_preconditioner
from prescore.samplers import SAMPLERS, auto_grid, choose_alpha, choose_sampler, make_sampler, sample
from prescore.statistics import ModelStatistics, Statistics, measure_moments

SHAPE = (1, 8, 8)
LOW, HIGH = 0.01, 50.0


@cache
def statistics():
    """Of a field with the spectrum of images, and of the steps of solvers on its exact model."""
    oracle = Gaussian.power_law(SHAPE)
    data = oracle.sample(100, torch.Generator().manual_seed(0))
    exact = Denoiser(oracle, SHAPE, LOW, HIGH, data_range=(-1.0, 2.0), dtype=torch.float64, name="field")
    return calibrate(data, data_range=(-1.0, 2.0), model=exact, trajectories=3, tries=2, calls=(5, 6), fitted=0)


def field(**options):
    """The model, which brings its statistics."""
    oracle = Gaussian.power_law(SHAPE)
    options = {"statistics": statistics(), "name": "field", **options}
    return Denoiser(oracle, SHAPE, LOW, HIGH, data_range=(-1.0, 2.0), dtype=torch.float64, **options)


def by_parts(name, steps, **options):
    return partial(sample, field(), make_sampler(name, steps=steps, **options), progress=False)


@pytest.mark.parametrize("name", ["dpmpp-2m", "unipc", "pc", "ald", "edm-heun"])
def test_without_statistics_it_is_the_sampler_on_its_usual_levels(name):
    decided = plan(field(), sampler=name, steps=6)
    assert torch.equal(decided.sample([3, 4], progress=False), by_parts(name, 6)(seeds=[3, 4]))
    assert torch.equal(decided.levels, decided.sampler.levels(LOW, HIGH))
    assert decided.calls == decided.sampler.total_calls(6)
    assert decided.reasons == {}


def test_a_reference_is_made_of_the_statistics_that_the_model_brings():
    decided = plan(field(), sampler="p-ode-2m", steps=5)
    assert torch.equal(decided.sample([1], progress=False), by_parts("p-ode-2m", 5, reference=statistics())(seeds=[1]))
    assert decided.settings["basis"] == "cosine"
    decided = plan(field(statistics=None), sampler="p-ode-2m", steps=5, statistics=statistics(), basis="frequency")
    expected = by_parts("p-ode-2m", 5, reference=frequency_gaussian(statistics()))(seeds=[1])
    assert torch.equal(decided.sample([1], progress=False), expected)


def test_alpha_is_chosen_by_one_rule_and_the_plan_says_so():
    decided = plan(field(), sampler="pds", steps=20)
    choice = choose_alpha(make_sampler("pc", steps=20), statistics(), LOW, HIGH)
    alpha = float(f"{min(choice.alpha, WEAKEST_ALPHA):.3g}")
    assert decided.settings["alpha"] == alpha
    assert decided.reasons["alpha"] == choice.reason
    M = frequency_preconditioner(statistics(), alpha)
    assert torch.equal(decided.sample([2], progress=False), by_parts("pds", 20, preconditioner=M)(seeds=[2]))
    assert plan(field(), sampler="pds", steps=20, alpha=3).settings["alpha"] == 3.0
    with pytest.raises(PrescoreError, match="alpha: is chosen for predictor-corrector samplers only"):
        plan(field(), sampler="ald", steps=5, alpha="auto")


def test_levels_that_serve_the_model():
    for name, how in {"p-ode-2m": "measured", "p-ode-3m": "tried", "unipc": "tried"}.items():
        decided = plan(field(), sampler=name, calls=6, grid="auto")
        assert torch.equal(decided.levels, auto_grid(name, statistics(), 6))
        assert decided.reasons["grid"].endswith(f"{how} on field")
    other = plan(field(), sampler="ddim", calls=6, grid="auto")
    assert torch.equal(other.levels, plan(field(), sampler="dpmpp-2m", calls=6, grid="auto").levels)
    assert other.reasons["grid"].endswith("no levels were measured for ddim itself")


def test_all_of_it_at_once():
    decided = plan(field(), calls=6)
    assert decided.name in SAMPLERS
    assert decided.calls == 6
    assert decided.reasons.keys() == {"sampler", "grid"}
    same = plan(field(), sampler=decided.name, calls=6, grid="auto")
    assert torch.equal(decided.sample([0], progress=False), same.sample([0], progress=False))
    text = repr(decided)
    for part in (decided.name, "field", "6 network calls", decided.reasons["sampler"], "levels: 50, "):
        assert part in text
    json.dumps(decided.settings, allow_nan=False)


def test_calls_are_those_of_the_network():
    twice = guided(field(), 2.0)
    decided = plan(twice, sampler="dpmpp-2m", calls=9)
    assert (decided.steps, decided.calls) == (4, 8)
    assert plan(field(), sampler="p-seeds-3", calls=9).calls == 7
    with pytest.raises(PrescoreError, match="calls: 9 are too few for sampler 'pndm'; it needs at least 13"):
        plan(field(), sampler="pndm", calls=9)
    with pytest.raises(PrescoreError, match="calls: sampler 'ggf' makes as many as its tolerance needs"):
        plan(field(), sampler="ggf", calls=9)
    assert plan(field(), sampler="ggf").calls is None


def test_a_function_needs_what_it_does_not_say():
    oracle = Gaussian.power_law(SHAPE)

    def function(x, sigma):
        return oracle(x, sigma)

    arguments = {"calls": 5, "sigma_min": LOW, "sigma_max": HIGH, "statistics": statistics(), "progress": False}
    images = draw(function, 3, **arguments)
    assert images.shape == (3, *SHAPE)
    double = draw(field(), 3, calls=5, progress=False)
    torch.testing.assert_close(images, double, rtol=0, atol=1e-4)  # the function is called in float32
    with pytest.raises(PrescoreError, match="sigma_max: the function does not say it; give it"):
        plan(function, calls=5, event_shape=SHAPE, sigma_min=LOW)
    with pytest.raises(PrescoreError, match="event_shape: the function does not say it"):
        plan(function, calls=5, sigma_min=LOW, sigma_max=HIGH)


def test_a_module_is_called_in_its_own_precision():
    class Module(torch.nn.Linear):
        def forward(self, x, sigma):
            assert x.dtype == torch.float64
            return super().forward(x)

    x = draw(Module(4, 4).double(), 2, sampler="ddim", steps=3, event_shape=(4,), sigma_min=0.1, sigma_max=1.0)
    assert x.shape == (2, 4)


def test_objects_made_by_hand_take_the_place_of_statistics():
    M = radial_preconditioner(SHAPE, 1.6, 1.6)
    decided = plan(field(statistics=None), sampler="ald", steps=4, preconditioner=M)
    assert decided.sampler.preconditioner is M
    assert decided.settings["preconditioner"] == M.label
    G = frequency_gaussian(statistics())
    assert plan(field(statistics=None), sampler="p-ode-1", steps=4, reference=G).sampler.reference is G
    with pytest.raises(PrescoreError, match="alpha: does nothing beside a preconditioner that is given"):
        plan(field(), sampler="pds", steps=4, preconditioner=M, alpha=3)


def test_the_mean_that_was_removed_from_a_models_data_is_taken_from_their_statistics():
    """The model of data less their mean, with the statistics of the data, draws what the model of the data draws, less
    the mean; a reference that still has the mean is refused."""
    oracle = Gaussian.power_law(SHAPE)
    mean = statistics().moments.mean

    def centred(x, sigma):
        return oracle(x + mean, sigma) - mean

    removed = field(data_mean_removed=True)
    removed = replace(removed, function=centred)
    for name in ("p-ode-2m", "p-ode-3m", "p-seeds-2"):
        x = plan(removed, sampler=name, steps=6).sample([0, 1], progress=False)
        y = plan(field(), sampler=name, steps=6).sample([0, 1], progress=False)
        torch.testing.assert_close(x + mean, y, rtol=0, atol=1e-10)
        with pytest.raises(PrescoreError, match="reference: has the mean of the data, which was removed"):
            sample(removed, make_sampler(name, steps=6, reference=statistics()), seeds=[0], progress=False)
    assert plan(removed, sampler="pds", steps=9).settings["alpha"] >= 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 0}, "steps: "),
        ({"sampler": "unipcc", "steps": 3}, "did you mean unipc"),
        ({"sampler": "pc", "calls": 4, "steps": 3}, "calls: says how long the run is"),
        ({"sampler": "pc", "calls": 4, "grid": [9.0, 1.0, 0.0]}, "calls: says how long the run is"),
        ({"sampler": "unipc", "alpha": 3, "steps": 4}, "alpha: sampler 'unipc' cannot use a preconditioner"),
        ({"sampler": "unipc", "basis": "pixel", "steps": 4}, "basis: sampler 'unipc' cannot use a reference"),
        ({"sampler": "p-ode-1", "basis": "wavelet", "steps": 4}, "basis: unknown value 'wavelet'"),
        ({"sampler": "pc", "pixel": True, "steps": 4}, "pixel: there is no preconditioner; give alpha or statistics"),
        ({"sampler": "pds", "alpha": "strong", "steps": 4}, "alpha: 'strong' given; a number, at least 1, or auto"),
        ({"sampler": "pc", "grid": "karas", "steps": 4}, "grid: unknown value 'karas'; did you mean karras"),
        ({"sampler": "pc", "rho": 3, "steps": 4}, "rho: belongs to grid karras"),
        (
            {"sampler": "pc", "grid": [99.0, 1.0, 0.0]},
            "grid: level 99 asked for, the model knows noise from 0.01 to 50",
        ),
        ({"sampler": "pc", "grid": [9.0, 1.0, 0.0], "sigma_max": 20}, "sigma_min, sigma_max: do nothing beside a list"),
        ({"sampler": "pc", "sigma_max": 60, "steps": 3}, "sigma_min, sigma_max: 0.01 to 60 asked for, the model knows"),
        ({"sampler": "unipc", "grid": "auto", "sigma_max": 9, "steps": 4}, "auto was measured for noise from"),
        ({"sampler": "pc", "steps": 3, "event_shape": (2, 2)}, r"event_shape: \(2, 2\) given, the model's own is"),
        ({"sampler": "pc", "steps": 3, "speed": 9}, "speed: sampler 'pc' has no such option"),
        (
            {"sampler": "pc", "steps": 3, "corrector": "none", "snr": 0.2},
            "snr: does nothing in sampler 'pc' with correc",
        ),
        ({"sampler": "pc", "steps": 3, "statistics": 7}, "statistics: int given; prescore.Statistics or a path"),
        ({"sampler": "pc", "steps": 3, "statistics": "nowhere"}, "nowhere: no such file"),
        ({"sampler": "p-ode-3m", "steps": 2}, "steps: 2 given; this solver of order 3 needs at least 3"),
    ],
)
def test_what_does_not_fit_is_refused(asked, message):
    with pytest.raises(PrescoreError, match=message) as caught:
        plan(field(), **asked)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["p-ode-2m", "pds", "analytic-ddim"])
def test_without_statistics_their_need_is_named(name):
    with pytest.raises(PrescoreError, match="sampler: field comes without statistics of its data; measure"):
        plan(field(statistics=None), sampler=name, steps=4)


def test_statistics_without_a_use_are_said_to_have_none():
    decided = plan(field(), sampler="ddim", steps=4, statistics=statistics())
    assert decided.reasons["statistics"] == "given, but ddim has no use for them"
    assert "statistics = unused: given, but ddim" in repr(decided)
    assert "statistics" not in plan(field(), sampler="p-ode-1", steps=4, statistics=statistics()).reasons


def test_why_the_usual_levels_are_taken():
    assert plan(field(statistics=None), calls=6).reasons["grid"].startswith("that of unipc; none was measured")
    narrowed = plan(field(), calls=6, sigma_max=20)
    assert "; what was measured is for noise from 0.01 to 50 (calib" in narrowed.reasons["grid"]
    assert "grid = usual: that of unipc" in repr(plan(field(statistics=None), calls=6))


def test_the_file_of_a_models_statistics_is_read_once(monkeypatch, tmp_path):
    prescore.save_statistics(statistics(), tmp_path / "s")
    reads = []

    def counted(path):
        reads.append(path)
        return prescore.load_statistics(path)

    monkeypatch.setattr(sys.modules["prescore.plan.known"], "load_statistics", counted)
    model = field(statistics=str(tmp_path / "s"))
    decided = plan(model, calls=6)
    assert reads == [str(tmp_path / "s")]
    assert decided.settings["statistics"] == str(tmp_path / "s")
    assert len(decided.settings["statistics_sha256"]) == 16
    plan(model, sampler="pc", steps=3)  # needs none
    assert len(reads) == 1


ASKED = [{}, {"sampler": "pds", "steps": 3}, {"calls": 5}, {"sampler": "p-ode-2m", "steps": 3}]


@pytest.mark.parametrize(("name", "asked"), zip(shipped_models(), cycle(ASKED), strict=False))
def test_python_and_the_command_line_draw_the_same(tmp_path: Path, name, asked):
    """Bit for bit, for every shipped model."""
    images = draw(prescore.load(name), 2, seed=7, progress=False, **asked)
    words = [word for option, value in asked.items() for word in (f"--{option}", str(value))]
    out = tmp_path / "a.npz"
    assert main(["sample", name, *words, "--n", "2", "--seed", "7", "--out", str(out), "--float"]) == 0
    drawn = np.load(out)["images"]
    assert np.array_equal(drawn, images.float().numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("asked", [{"steps": 6}, {"grid": [9.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.0]}, {"calls": 6}, {}])
def test_a_sampler_is_chosen_whatever_says_how_many_calls_it_makes(asked):
    decided = plan(field(), **asked)
    assert decided.name == choose_sampler(decided.calls, field().statistics).name
    assert decided.calls == (6 if asked else USUAL_CALLS)
    assert decided.settings["sampler_chosen"] == decided.reasons["sampler"]


def test_the_usual_number_of_calls_counts_evaluations_of_the_model():
    assert plan(replace(field(), network_calls=2)).calls == 2 * USUAL_CALLS


@pytest.mark.parametrize(
    ("asked", "able"),
    [({"snr": 0.2}, "pc"), ({"alpha": 3}, "pds"), ({"preconditioner": Preconditioner(Identity())}, "pds")],
)
def test_what_the_chosen_sampler_does_not_use_is_refused(asked, able):
    with pytest.raises(PrescoreError, match=f"{next(iter(asked))}: sampler 'auto' takes .* such as {able}"):
        plan(field(), **asked)


WRONG_KINDS = [
    ({"sampler": "p-ode-3m", "corrector": "no"}, "corrector: 'no' given; yes or no is needed"),
    ({"sampler": "p-ode-3m", "corrector": 1}, "corrector: 1 given; yes or no is needed"),
    ({"sampler": "pc", "snr": "0.16"}, "snr: '0.16' given; a number is needed"),
    ({"sampler": "pc", "corrector_steps": True}, "corrector_steps: True given; a whole number is needed"),
    ({"sampler": "pds", "alpha": "5"}, "alpha: '5' given; a number, at least 1, or auto is needed"),
    ({"sampler": "pds", "pixel": "no"}, "pixel: 'no' given; True or False is needed"),
    ({"steps": "5"}, "steps: '5' is not a positive whole number"),
    ({"steps": True}, "steps: True is not a positive whole number"),
    ({"calls": True}, "calls: True is not a positive whole number"),
    ({"sigma_max": "20"}, "sigma_max: '20' given; a number is needed"),
    ({"grid": 3}, "grid: shape (); a row"),
    ({"sampler": make_sampler("pc")}, "sampler: PredictorCorrector given; a name is needed"),
    ({"sampler": "PDS"}, "did you mean pds"),
    ({"sampler": "dpm++"}, "did you mean dpmpp-2s"),
    (
        {"sampler": "p-ode-3m", "corector": True},
        "corector: sampler 'p-ode-3m' has no such option; did you mean corrector",
    ),
]


@pytest.mark.parametrize(("asked", "message"), WRONG_KINDS)
def test_values_of_the_wrong_kind_are_named(asked, message):
    with pytest.raises(PrescoreError, match=re.escape(message)):
        plan(field(), **asked)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan("natural-edm"), "model: 'natural-edm' is a name; open it first, by prescore.load('natural-edm')"),
        (lambda: draw("mnist-ve"), "prescore.load('mnist-ve')"),
        (lambda: plan(3), "model: int cannot be called as model(x, sigma)"),
        (lambda: prescore.load(field()), "name_or_path: Denoiser given"),
        (lambda: plan(torch.relu, event_shape=14, sigma_min=1, sigma_max=2), "event_shape: 14 is not a shape"),
        (lambda: plan(field()).sample(4), "seeds: 4 given; a row of whole numbers, such as range(16), is needed"),
        (lambda: draw(field(), 2, condition=torch.zeros(2)), "condition: Tensor given; tensors by the names of"),
        (lambda: draw(field(), 2, condition={"label": 1}), "condition 'label': a tensor with a row for each sample"),
        (lambda: draw(field(), "2"), "n: '2' samples asked for"),
        (lambda: draw(field(), 2, seed=1.5), "seed: 1.5 is not a whole number"),
        (lambda: draw(field(), 2, batch_size=1.5), "batch_size: 1.5 is not a positive whole number"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(call, message):
    with pytest.raises(PrescoreError, match=re.escape(message)):
        call()


def test_lists_and_whole_numbers_stand_for_tuples_and_numbers():
    assert plan(field(), sampler="pc", steps=3, snr=1).settings["snr"] == 1
    assert plan(field(), sampler="pc", steps=np.int64(3).item()).steps == 3


def test_usual_levels_start_where_the_noise_hides_the_data_however_wide_the_range():
    generator = torch.Generator().manual_seed(0)
    falling = 0.25 / (1 + torch.arange(64.0)).reshape(1, 8, 8)
    means = torch.randn(3, 1, 8, 8, generator=generator).double() * 0.1
    oracle = MixtureOracle(torch.ones(3), means, Diagonal(falling.expand(3, 1, 8, 8)))
    data = oracle.sample(200, generator)
    statistics = Statistics(moments=measure_moments(data, data_range=(-4, 4)))
    exact = data.std().item()

    def drawn(sigma_max):
        model = Denoiser(oracle, (1, 8, 8), 0.002, sigma_max, data_range=(-4, 4))
        decided = plan(model, sampler="p-ode-3m", calls=5, statistics=statistics)
        return decided, decided.sample(range(200), progress=False).std().item()

    narrow, spread = drawn(80.0)
    assert "sigma_max" not in narrow.reasons
    for sigma_max in (1300.0, 20000.0):
        wide, found = drawn(sigma_max)
        assert wide.levels[0] == pytest.approx(hiding_level(wide.denoiser, statistics))
        assert abs(found - exact) < 1.05 * abs(spread - exact)
    model = Denoiser(oracle, (1, 8, 8), 0.002, 20000.0, data_range=(-4, 4))
    asked = plan(model, sampler="p-ode-3m", statistics=statistics, sigma_max=40.0)
    assert asked.levels[0] == 40


def doubtful(shares):
    """Statistics of a network that leaves these shares of the Gaussian model's error."""
    score = statistics().model.score
    factors = torch.tensor(shares, dtype=torch.float64) / error_share(statistics()).shares[: len(shares)]
    measured = replace(
        score,
        levels=score.levels[: len(shares)],
        score_square=score.score_square[: len(shares)],
        residual_square=score.residual_square[: len(shares)] * factors,
    )
    return replace(statistics(), model=ModelStatistics(score=measured))


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ([1.07, 1.02, 0.6, 0.3], None),
        (
            [100, 7, 0.9, 0.3],
            r"at sigma = \S+ to 50 the network makes up to 1e\+02 times .* or start lower by sigma_max",
        ),
        ([1.0, 0.9, 0.5, 3.0], r"at sigma = \S+ the network makes up to 3 times .* train it longer$"),
        ([1.5, 1.2, 1.1, 1.0], "at no noise level does the network know more than the Gaussian model"),
    ],
)
def test_a_network_that_errs_more_than_the_gaussian_model_is_doubted(shares, words):
    model = field(statistics=doubtful(shares))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decided = plan(model, sampler="p-ode-2m", calls=6)
    assert [str(w.message) for w in caught if w.category is ModelWarning] == list(decided.warnings)
    if words is None:
        assert not decided.warnings
    else:
        assert re.search(words, decided.warnings[0])
        assert f"warning: {decided.warnings[0]}" in repr(decided)


def test_a_plan_says_what_it_is():
    text = repr(plan(field(), calls=6))
    assert "6 steps, 6 network calls a sample" in text
    assert "data range: -1 to 2" in text
    assert "warm_up" not in text  # does nothing in so many steps with a corrector
    assert len(re.findall(r"noise levels: .*", text)[0].split(",")) == 7
    assert "(29 more)" in repr(plan(field(), sampler="pc", steps=50))


def test_statistics_of_another_shape_are_refused_by_every_sampler():
    other = calibrate(torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    for name in ("auto", "p-ode-2m", "pds"):
        with pytest.raises(PrescoreError, match=r"events of shape \(3, 8, 8\), the model's have \(1, 8, 8\)"):
            plan(field(), sampler=name, statistics=other)


def test_options_that_nothing_has_are_named_with_the_near_ones():
    with pytest.raises(PrescoreError, match="cals: there is no such option; did you mean calls"):
        plan(field(), cals=5)


def test_a_network_that_is_doubted_is_not_called_nearly_gaussian():
    model = field(statistics=doubtful([1.5, 1.4, 1.3, 1.26]))
    with pytest.warns(ModelWarning):
        assert "at least 1.3 times the Gaussian model's error" in plan(model, calls=6).reasons["sampler"]
