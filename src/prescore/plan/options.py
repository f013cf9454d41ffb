"""The options of a run's sampler: which it takes, what its arguments are made from, and whose defaults they are."""

from collections.abc import Iterable, Mapping
from typing import Any

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, suggest
from prescore.plan.known import Known
from prescore.samplers import AnnealedLangevin, Entry, PredictorCorrector, Sampler, find_sampler
from prescore.samplers.table import which_take

MADE_FROM = ("alpha", "alpha_relation", "pixel", "radial", "skew", "basis")  # objects are made from these
PLAIN = (bool, int, float, str, tuple)  # types of what stands among the settings as it is


def wanted_of(
    sampler: str,
    known: Known,
    made: Mapping[str, object],
    alpha: object,
    pixel: bool | None,
    basis: str | None,
    for_grid: bool,
) -> list[str]:
    """Which arguments of the sampler are to be made from statistics.

    Args:
        made: those that were made by hand.
        for_grid: whether noise levels or the choice of the sampler come from the statistics, which then have a use.
    """
    entry = find_sampler(sampler)
    asked = {"alpha": ("preconditioner", alpha), "pixel": ("preconditioner", pixel), "basis": ("reference", basis)}
    for option, (argument, value) in asked.items():
        if value is not None and not entry.takes(argument):
            raise PrescoreError(f"{option}: sampler {sampler!r} cannot use a {argument}")
        if value is not None and argument in made:
            raise PrescoreError(f"{option}: does nothing beside a {argument} that is given")
    taken = [a for a in ("preconditioner", "reference", "statistics") if entry.takes(a) and a not in made]
    needs = {"preconditioner": alpha, "reference": basis}
    is_given = known.given is not None or known.mask is not None
    wanted = [a for a in taken if a in entry.needs or is_given or needs.get(a) is not None]
    if pixel is not None and "preconditioner" not in wanted:
        raise PrescoreError("pixel: there is no preconditioner; give alpha or statistics")
    if wanted and not (known.mask is not None and wanted == ["preconditioner"]):
        given = [option for option, value in (("alpha", alpha), ("basis", basis)) if value is not None]
        known.require((*given, "sampler")[0], with_model="statistics" in wanted)
    return wanted


def check_taken(chosen: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise PrescoreError if the sampler that was chosen has nothing to do with something that was given.

    Args:
        known: the options of every run, for messages.
    """
    entry = find_sampler(chosen)
    for name in given:
        argument = ("reference" if name == "basis" else "preconditioner") if name in MADE_FROM else name
        if not entry.takes(argument) and not entry.takes(name):
            able = which_take(argument) or which_take(name)
            if not able:
                raise PrescoreError(f"{name}: there is no such option; {suggest(name, sorted(known))}")
            raise PrescoreError(
                f"{name}: sampler 'auto' takes {chosen!r}, which does not use it; name one that does, such as {able[0]}"
            )


def own_defaults(
    denoiser: Denoiser,
    entry: Entry,
    given: Mapping[str, object],
    steps: int | None,
    calls: int | None,
    is_preconditioned: bool,
) -> dict[str, Any]:
    """The options that the model was published with, of the samplers that it was published for, but for those given.

    A model that is published without a corrector keeps the sampler's own beside a preconditioner, which needs one. A
    step size of Langevin dynamics belongs to a number of steps, and is left out where that is another.
    """
    published = denoiser.sampling
    if published is None or entry.cls not in (PredictorCorrector, AnnealedLangevin):
        return {}
    own = {name: value for name, value in published.options(entry.options).items() if name not in given}
    idle: set[str] = set()
    if is_preconditioned and published.corrector == "none":
        idle |= {"predictor", "corrector"}
    elif {**own, **given}.get("corrector") == "none":
        idle |= {"snr", "corrector_steps"}
    if calls is not None:
        idle.add("level_steps")
    each = given.get("level_steps", own.get("level_steps"))
    if steps is None or not isinstance(each, int) or steps * each != published.iterations:
        idle.add("step_size")
    return {name: value for name, value in own.items() if name not in idle}


def options_of(sampler: Sampler, names: Iterable[str], given: Mapping[str, object]) -> dict[str, object]:
    """The sampler's options as JSON values; those that are none in words, if they were given."""
    values: dict[str, object] = {}
    for name in names:
        value = getattr(sampler, name)
        if value is None or isinstance(value, PLAIN):
            values[name] = list(value) if isinstance(value, tuple) else value
        elif name in given:
            values[name] = repr(value)
    return values
