"""`prescore samplers`."""

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from prescore.cli.report import show

if TYPE_CHECKING:
    from prescore.options import Option
    from prescore.samplers import Entry, Sampler

WIDTH = 100
ABOUT_AUTO = (
    "auto is no sampler of its own: it takes one of them, its noise levels and the start, by the number of calls "
    "and by what `prescore calibrate` measured of data and model, and says why. It has no options."
)
# What `prescore sample` makes for a sampler that takes it: the flags, and what it is.
MADE = {
    "preconditioner": ("--alpha, --pixel, --statistics", "the preconditioner: its strength, parts, and what it is of."),
    "reference": ("--basis, --statistics", "the Gaussian that is integrated exactly: its basis, and what it is of."),
    "statistics": ("--statistics", "statistics of the data with what was measured of the model."),
}


def samplers(
    name: Annotated[str | None, typer.Argument(help="One sampler, to be shown with its options.")] = None,
) -> None:
    """List the samplers, or show one of them: what it is, what it costs, and the options it takes."""
    from prescore.samplers import find_sampler

    if name == "auto":
        print(textwrap.fill(ABOUT_AUTO, WIDTH))
    else:
        print(describe_all() if name is None else describe(name, find_sampler(name)))


def describe_all() -> str:
    """The table of samplers, by family."""
    from prescore.cli.report import table
    from prescore.samplers import SAMPLERS

    families = dict.fromkeys(entry.cls.family for entry in SAMPLERS.values())
    names = [name for family in families for name, entry in SAMPLERS.items() if entry.cls.family == family]
    rows = [[f"  {name}", *facts_of(SAMPLERS[name])] for name in names]
    header, *lines = table(["sampler", "order", "strong", "calls", "needs", "what", "source"], rows).splitlines()
    for family in reversed(families):
        lines.insert(next(k for k, name in enumerate(names) if SAMPLERS[name].cls.family == family), family)
    notes = (
        "order: of the state for a deterministic sampler, of the moments (weak) for a random one; strong: along one "
        "path of the noise, - if there is none; calls: of the network in a step; needs: what it cannot run without."
    )
    more = "`prescore samplers NAME` explains the options of sampler NAME; auto, the default, is one of them."
    return "\n".join([header, *lines, "", textwrap.fill(notes, WIDTH), more])


def describe(name: str, entry: "Entry") -> str:
    """One sampler with its options, as `prescore sample` takes them."""
    from prescore.cli.report import facts
    from prescore.samplers.table import options_of

    order, strong, calls, needs, what, _ = facts_of(entry)
    kind = f"{order}, deterministic" if strong == "-" else f"{order} weak, {strong} strong"
    head = {"what": what, "family": entry.cls.family, "order": kind, "calls a step": calls, "needs": needs}
    parts = [f"sampler {name}", facts(head | {"source": entry.source}), "Options of `prescore sample`:"]
    parts += map(explain, options_of(entry).values())
    for argument, (flags, text) in MADE.items():
        if entry.takes(argument):
            parts.append(f"  {flags}\n      {text}")
    return "\n\n".join(parts)


def explain(option: "Option") -> str:
    """An option with what it takes, its default and its help."""
    default = "" if option.default is None else f"; default: {show(option.default)}"
    usage = f"{', '.join(option.flags)}  ({option.value}{default})"
    return f"{_fill(usage, 2, 4)}\n{_fill(option.help, 6, 6)}"


def _fill(text: str, first: int, others: int) -> str:
    """Lines indented by so many spaces; names are not broken at their hyphens."""
    return textwrap.fill(
        text, WIDTH, initial_indent=" " * first, subsequent_indent=" " * others, break_on_hyphens=False
    )


def facts_of(entry: "Entry") -> list[object]:
    """Order, strong order, calls a step, needs, what, source."""
    from torch import ones

    from prescore.gaussian import Gaussian
    from prescore.operators import Identity, Pixel
    from prescore.precondition import Preconditioner

    stand_ins = {"preconditioner": Preconditioner(Identity()), "reference": Gaussian(ones(1), Pixel(ones(1)))}
    needed = {need: stand_ins[need] for need in entry.needs if need in stand_ins}
    sampler = entry.cls(**entry.defaults, **entry.fixed, **needed)  # type: ignore[arg-type]
    strong = "-" if sampler.strong_order is None else f"{sampler.strong_order:g}"
    needs = ", ".join(entry.needs) or "-"
    return [sampler.order, strong, calls_per_step(sampler), needs, entry.about, entry.source.removeprefix("https://")]


def calls_per_step(sampler: "Sampler") -> str:
    """Network calls of one more step, wherever the first and last ones cost something else."""
    many, more = sampler.total_calls(1000), sampler.total_calls(1001)
    return "adaptive" if many is None or more is None else str(more - many)
