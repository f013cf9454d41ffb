"""The options of a run by the name of a preset, in which what is given counts more."""

import warnings
from collections.abc import Mapping
from typing import Any

from prescore.denoiser import Denoise
from prescore.plan.options import MADE_FROM
from prescore.presets import PresetWarning, find_preset
from prescore.samplers import find_sampler

# Of each group, what is given takes the place of all that the preset says.
INSTEAD = ({"calls", "steps", "grid"}, {"alpha", "alpha_relation", "radial", "preconditioner"})


def by_preset(name: str, model: Denoise, given: Mapping[str, Any]) -> dict[str, Any]:
    """What `plan` takes beside the model, by a preset and by what is given.

    Raises:
        PrescoreError: there is no such preset.

    Warns:
        PresetWarning: it is for another model.
    """
    preset = find_preset(name)
    own = dict(preset.options)
    if given.get("sampler", own["sampler"]) != own["sampler"]:  # then only what both have
        entry = find_sampler(given["sampler"])
        parts = set(MADE_FROM) if entry.takes("preconditioner") else set()
        own = {key: value for key, value in own.items() if key in {*entry.options, "steps", "calls"} | parts}
    for group in INSTEAD:
        if group & given.keys():
            own = {key: value for key, value in own.items() if key not in group}
    if not given.get("pixel", True) or "radial" in given:
        own.pop("pixel", None)
    published = getattr(model, "sampling", None)
    shape = getattr(model, "event_shape", None) or given.get("event_shape") or preset.shape
    if other := preset.misfit(tuple(shape), () if published is None else published.configurations):
        warnings.warn(f"the preset {name} is for {other}; its settings may not suit", PresetWarning, stacklevel=4)
    return {**own, **given}
