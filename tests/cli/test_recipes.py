import pytest

from prescore.cli.options import recipe_options
from prescore.training.recipes import RECIPES


def test_lists_the_recipes(cli):
    code, out, _ = cli("recipes")
    assert code == 0
    for name, recipe in RECIPES.items():
        assert name in out
        assert recipe.about in out


@pytest.mark.parametrize("name", RECIPES)
def test_shows_every_option_with_its_default_and_an_explanation(cli, name):
    code, out, _ = cli("recipes", name)
    assert code == 0
    for option in recipe_options(name).values():
        assert f"  {option.flag}" in out
        assert option.help, option.name


def test_defaults_are_those_of_the_recipe():
    assert recipe_options("ve")["learning_rate"].default == 2e-4
    assert recipe_options("edm")["learning_rate"].default == 1e-3
    assert recipe_options("ncsn")["levels"].default == 10


def test_unknown_recipe(refused):
    assert "recipe: unknown value 'edn'; did you mean edm" in refused("recipes", "edn")
