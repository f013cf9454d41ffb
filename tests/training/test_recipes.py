import dataclasses
import itertools

import pytest
from runs import digits

from prescore.errors import PrescoreError
from prescore.training.data import TrainingData
from prescore.training.recipes import RECIPES, configured, find_recipe, with_options


@pytest.mark.parametrize(
    ("name", "network"),
    [("ncsn", "NCSN"), ("ncsnv2", "NCSNv2"), ("ve", "SongUNet"), ("vp", "SongUNet"), ("flow", "SongUNet")],
)
def test_recipes_describe_their_models(name, network):
    description = find_recipe(name).settings.task(TrainingData(digits(4, 32, channels=3))).describe("m", {})
    assert (description.network, description.event_shape) == (network, (3, 32, 32))
    assert description.preconditioning == find_recipe(name).settings.preconditioning


def test_rows_of_table_1_of_the_edm_paper():
    rows = {
        name: (s.network, s.embedding, s.preconditioning, s.noise, s.weight)
        for name, s in ((name, RECIPES[name].settings) for name in ("vp", "ve", "edm"))
    }
    assert rows == {
        "vp": ("ddpmpp", "positional", "vp", "uniform-time", "inverse-square"),
        "ve": ("ncsnpp", "fourier", "ve", "log-uniform", "inverse-square"),
        "edm": ("ddpmpp", "positional", "edm", "log-normal", "edm"),
    }


def test_noise_levels_of_ncsn():
    task = find_recipe("ncsn").settings.task(TrainingData(digits(4, 8)))
    sigmas = task.describe("m", {}).preconditioning_arguments["sigmas"]
    assert len(sigmas) == 10
    assert (sigmas[0], sigmas[-1]) == (1.0, 0.01)


def test_noise_levels_of_ncsnv2_are_measured():
    data = TrainingData(digits(50, 8))
    task = find_recipe("ncsnv2").settings.task(data)
    assert task.sigma_max == data.largest_distance((0.0, 1.0))
    given, _ = with_options(find_recipe("ncsnv2"), {"sigma_max": 5.0, "levels": 7})
    description = given.task(data).describe("m", {})
    assert (description.sigma_max, len(description.preconditioning_arguments["sigmas"])) == (5.0, 7)


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_each_configuration_changes_what_its_row_says(name):
    def changed(a, b):
        parts = ((getattr(a, part), getattr(b, part)) for part in ("settings", "training"))
        return {f.name for x, y in parts for f in dataclasses.fields(x) if getattr(x, f.name) != getattr(y, f.name)}

    rows = [configured(name, letter) for letter in "ABCDEF"]
    assert rows[0] == find_recipe(name)
    steps = [changed(a, b) for a, b in itertools.pairwise(rows)]
    assert steps[:3] == [
        {"learning_rate", "batch_size", "clip", "dropout"},
        {"channel_mult"},
        {"preconditioning"},
    ]
    assert steps[3] - {"data_range"} == {"noise", "weight", "sigma_min", "sigma_max"}
    assert steps[4] == {"augment"}
    final = rows[-1].settings
    assert (final.preconditioning, final.noise, final.weight, final.data_range) == ("edm", "log-normal", "edm", (-1, 1))


def test_unknown_names():
    with pytest.raises(PrescoreError, match=r"recipe: unknown value 'ncsm'; did you mean ncsn"):
        find_recipe("ncsm")
    with pytest.raises(PrescoreError, match="configuration: unknown value 'G'"):
        configured("ve", "G")
    with pytest.raises(PrescoreError, match="configuration: recipe 'ncsn' has none; ve and vp have"):
        configured("ncsn", "B")
    with pytest.raises(PrescoreError, match=r"dropuot: this recipe has no such setting; did you mean dropout"):
        with_options(find_recipe("ve"), {"dropuot": 0.1})
    with pytest.raises(PrescoreError, match=r"aaa: this recipe has no such setting; known: P_mean, P_std, attn_res"):
        with_options(find_recipe("ve"), {name * 3: 0.1 for name in "hgfedcba"})


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ("ve", {"P_mean": -1.0}, "P_mean: belongs to noise log-normal"),
        ("ve", {"sigma_data": 0.5}, "sigma_data: belongs to preconditioning or weight edm"),
        ("vp", {"sigma_max": 5.0}, "sigma_max: belongs to another noise than uniform-time"),
        ("edm", {"levels": 5}, "levels: belongs to noise levels"),
        ("ncsn", {"dropout": 0.1}, "dropout: belongs to the networks ddpmpp and ncsnpp"),
        ("ncsnv2", {"augment": 0.1}, "augment: belongs to the networks ddpmpp and ncsnpp"),
    ],
)
def test_settings_that_would_do_nothing(recipe, given, message):
    with pytest.raises(PrescoreError, match=message):
        with_options(find_recipe(recipe), given)


def test_settings_that_another_one_makes_useful():
    settings, config = with_options(
        find_recipe("ve"), {"noise": "log-normal", "P_mean": -2.0, "preconditioning": "edm", "beta2": 0.9}
    )
    assert (settings.P_mean, settings.preconditioning, config.beta2) == (-2.0, "edm", 0.9)
