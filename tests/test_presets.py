"""The papers' settings: every preset runs on a model of its kind, and can be overridden."""

import warnings

import pytest
import torch

from prescore import calibrate, plan
from prescore.checkpoints.ncsn import PUBLISHED as NCSN
from prescore.checkpoints.score_sde import PUBLISHED
from prescore.defaults import SamplingDefaults
from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.precondition import radial_preconditioner
from prescore.presets import PRESETS, PresetWarning, find_preset
from prescore.samplers import AlphaRelation

SHAPE = (1, 8, 8)
KNOWN = {*PUBLISHED, *NCSN, "edm", "edm-baseline"}
TABLE_1 = {
    "cifar10": ({1000: 50, 400: 25, 200: 12, 100: 5, 50: 1.8}, 1),
    "celeba64": ({1000: 300, 400: 40, 200: 15, 100: 6, 50: 2.5}, 2),
}


def field(sampling=None):
    oracle = Gaussian.power_law(SHAPE)
    data = oracle.sample(50, torch.Generator().manual_seed(0))
    statistics = calibrate(data - data.min() + 0.1, data_range=(0.0, 10.0))
    return Denoiser(oracle, SHAPE, 0.01, 100.0, data_range=(0.0, 10.0), statistics=statistics, sampling=sampling)


MODEL = field()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs(name):
    preset = find_preset(name)
    assert set(preset.configurations) <= KNOWN
    fewer = {"alpha": 5} if preset.options.get("alpha") == "auto" else {}
    with pytest.warns(PresetWarning, match=f"the preset {name} is for samples of shape"):
        decided = plan(MODEL, preset=name, **fewer)
    assert decided.settings["preset"] == name
    for option, value in (preset.options | fewer).items():
        if option != "calls":
            assert decided.settings[option] == (list(value) if isinstance(value, tuple) else value), option
    assert decided.calls <= preset.options.get("calls", decided.calls)


def test_a_preset_draws_and_each_of_its_values_can_be_overridden():
    with warnings.catch_warnings(action="ignore", category=PresetWarning):
        decided = plan(MODEL, preset="pds-cifar10-t100", steps=2, alpha=9, snr=0.1)
        assert decided.sample([0], progress=False).isfinite().all()
        assert [decided.settings[key] for key in ("steps", "alpha", "snr")] == [2, 9.0, 0.1]
        assert plan(MODEL, preset="pds-cifar10-t100", calls=8).calls == 8
        other = plan(MODEL, preset="pds-cifar10-t100", sampler="pc")
        assert (other.name, other.steps, other.settings["alpha"]) == ("pc", 100, 5.0)
        assert plan(MODEL, preset="pds-church96-t126", sampler="ddim").steps == 126
        assert "alpha" not in plan(MODEL, preset="pds-ffhq1024-t66", radial=(0.2, 1.6)).settings


@pytest.mark.parametrize(
    ("name", "fits", "other"),
    [
        ("pds-cifar10-t50", "cifar10-ncsnpp-continuous-ve", "cifar10-ddpmpp-continuous-vp"),
        ("edm-cifar10", "edm", "cifar10-ncsnpp-continuous-ve"),
        ("pds-tower128-t65", "bedroom128-ncsnv2 or tower128-ncsnv2", "church96-ncsnv2"),
    ],
)
def test_a_preset_for_another_model_warns(name, fits, other):
    preset = find_preset(name)
    own, strange = (SamplingDefaults(configuration=text).configurations for text in (fits, other))
    assert preset.misfit(preset.shape, own) == ""
    assert preset.misfit(preset.shape, ()) == ""
    assert other in preset.misfit(preset.shape, strange)


def test_the_table_is_that_of_the_paper():
    for data, (alphas, p) in TABLE_1.items():
        for T, alpha in alphas.items():
            options = find_preset(f"pds-{data}-t{T}").options
            assert (options["steps"], options["alpha"], options["pixel"]) == (T, alpha, p == 2)
    assert find_preset("pds-church96-t157").options["radial"] == (0.2, 1.6)
    assert find_preset("pds-tower128-t108").options["radial"] == (0.2, 1.1)
    for data, name in (("church96", "church96-ncsnv2"), ("tower128", "tower128-ncsnv2")):
        iterations = NCSN[name].sampling.iterations
        for preset in (value for key, value in PRESETS.items() if key.startswith(f"pds-{data}")):
            T = preset.options["steps"]
            assert iterations // round(iterations / T) == T  # T0 / c rounded down, for a whole c
            assert preset.options["step_size"] == NCSN[name].step_size
            assert preset.options["original_steps"] == iterations


@pytest.mark.parametrize("data", TABLE_1)
def test_the_relation_predicts_table_1_at_every_number_of_steps(data):
    alphas, p = TABLE_1[data]
    relation = AlphaRelation.fit(alphas, p, relative=True)
    for T, alpha in alphas.items():
        assert relation.alpha(T) == pytest.approx(alpha, rel=0.5)
    assert relation.alpha(1000) == pytest.approx(alphas[1000], rel=0.15)
    two = {T: alphas[T] for T in (100, 1000)}
    for T, alpha in two.items():
        assert AlphaRelation.fit(two, p, relative=True).alpha(T) == pytest.approx(alpha)


def test_options_of_the_preconditioner():
    decided = plan(MODEL, sampler="pds", steps=200, alpha_relation={100: 5, 400: 25})
    assert decided.settings["alpha"] == float(f"{AlphaRelation.fit({100: 5, 400: 25}).alpha(200):.3g}")
    assert "1/T" not in decided.reasons["alpha"]
    assert decided.reasons["alpha"].endswith("by the alphas given")
    x = torch.randn(2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for name in ("ald", "pc", "pds"):
        M = plan(MODEL, sampler=name, steps=3, radial=(0.25, 1.6)).sampler.preconditioner
        assert torch.equal(M.noise(x), radial_preconditioner(SHAPE, 2.0, 1.6).noise(x))
    M = plan(MODEL, sampler="pds", steps=3, alpha=5, skew="S1", omega=2).sampler.preconditioner
    expected = plan(MODEL, sampler="pds", steps=3, alpha=5).sampler.preconditioner.drift(x)
    assert torch.allclose(M.drift(x), expected + 2 * (x.roll((1, 1), (-2, -1)) - x.roll((-1, -1), (-2, -1))))
    noises = {
        mask: plan(MODEL, sampler="pds", steps=3, alpha=5, pixel=True, **mask_options).sampler.preconditioner.noise(x)
        for mask, mask_options in {
            "log": {},
            "square": {"pixel_mask": "square"},
            "mean": {"pixel_mask": "mean"},
            "apart": {"pixel_alpha": 9},
        }.items()
    }
    assert len({value.sum().item() for value in noises.values()}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "pds-cifar"}, "^preset: unknown name 'pds-cifar'; did you mean pds-cifar10-t1000"),
        ({"sampler": "pds", "radial": (0.2, 1.6), "alpha": 5}, "^radial: does nothing beside alpha"),
        ({"sampler": "ddim", "radial": (0.2, 1.6)}, "^radial: sampler 'ddim' cannot use a preconditioner"),
        ({"sampler": "pds", "radial": (0.2,)}, "^radial: .* two numbers are needed"),
        ({"sampler": "pds", "skew": "S1"}, "^skew, omega: give both"),
        ({"sampler": "pds", "skew": "S4", "omega": 1}, "^skew: 'S4' is the zero operator"),
        ({"sampler": "pds", "pixel_alpha": 3}, "^pixel_alpha: belongs to pixel"),
        ({"sampler": "pds", "pixel": True, "pixel_mask": "cube", "alpha": 3}, "^pixel_mask: unknown value 'cube'"),
        (
            {"sampler": "pds", "alpha": 3, "alpha_relation": {1: 2, 3: 4}},
            "^alpha_relation: does nothing beside an alpha",
        ),
        ({"sampler": "pds", "alpha_relation": {100: 5}}, "^pairs: 1 given"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(PrescoreError, match=message):
        plan(MODEL, steps=20, **options)
