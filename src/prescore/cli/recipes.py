"""`prescore recipes`."""

from typing import Annotated

import typer


def recipes(
    name: Annotated[str | None, typer.Argument(help="One recipe, to be shown with its options.")] = None,
) -> None:
    """List the recipes of `prescore train`, or show one of them with the options it takes and their defaults."""
    print(describe_all() if name is None else describe(name))


def describe_all() -> str:
    """The table of recipes."""
    from prescore.cli.report import table
    from prescore.training.recipes import RECIPES

    rows = [[name, recipe.about, recipe.source.removeprefix("https://")] for name, recipe in RECIPES.items()]
    more = "`prescore recipes NAME` explains the options of recipe NAME."
    return f"{table(['recipe', 'what', 'source'], rows)}\n\n{more}"


def describe(name: str) -> str:
    """One recipe with its options, as `prescore train` takes them."""
    from prescore.cli.options import recipe_options
    from prescore.cli.report import facts
    from prescore.cli.samplers import explain
    from prescore.training.recipes import find_recipe

    recipe = find_recipe(name)
    parts = [f"recipe {name}", facts({"what": recipe.about, "source": recipe.source}), "Options of `prescore train`:"]
    return "\n\n".join([*parts, *map(explain, recipe_options(name).values())])
