"""A run, decided in one place: a model, what is known of its data, and what was asked for become a sampler on its noise
levels, with everything that decides a sample beside its seed, and the reasons for what was chosen.

Whoever runs a sampler by its name runs a `Plan`: `draw`, the command line, comparisons, experiments and benchmarks.

    decide           from what was asked for to a `Plan`
    preset           what is asked for by the name of a table of a paper
    model            the model, limited, wrapped, or joined with one of block means
    known            statistics as the model sees them, and what follows from them
    levels           noise levels, and how many steps the calls allow
    preconditioning  the preconditioner, and its strength
    options          what the sampler takes, and whose defaults
    record           what was decided, and why
    drawing          samples by a plan, in one call
"""

from prescore.plan.decide import USUAL_CALLS, plan
from prescore.plan.drawing import draw
from prescore.plan.known import hiding_level, reference_of, seen_by
from prescore.plan.levels import AUTO
from prescore.plan.preconditioning import WEAKEST_ALPHA
from prescore.plan.record import Plan, examination, examined

__all__ = [
    "AUTO",
    "USUAL_CALLS",
    "WEAKEST_ALPHA",
    "Plan",
    "draw",
    "examination",
    "examined",
    "hiding_level",
    "plan",
    "reference_of",
    "seen_by",
]
