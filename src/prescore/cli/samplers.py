"""`prescore samplers`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prescore.samplers import Sampler


def samplers() -> None:
    """List the samplers: what they are, what they cost, and the options they take."""
    from prescore.cli.report import facts, table
    from prescore.operators import Identity
    from prescore.precondition import Preconditioner
    from prescore.samplers import SAMPLERS, make_sampler

    rows, options = [], {}
    for name, entry in SAMPLERS.items():
        sampler = make_sampler(name, preconditioner=Preconditioner(Identity()) if entry.needs else None)
        calls = calls_per_step(sampler)
        rows.append([name, entry.cls.family, sampler.order, sampler.stochastic, calls, entry.about, entry.source])
        own = " ".join("--" + option.replace("_", "-") for option in entry.options)
        options[name] = own + (" --alpha --preconditioner --pixel" if entry.preconditionable else "")
    print(table(["name", "family", "order", "random", "calls a step", "what", "source"], rows))
    print("\nOptions beside --steps, --sigma-min and --sigma-max:")
    print(facts(options))


def calls_per_step(sampler: "Sampler") -> int | str:
    """Network calls of one more step, wherever the first and last ones cost something else."""
    many, more = sampler.total_calls(1000), sampler.total_calls(1001)
    return "adaptive" if many is None or more is None else more - many
