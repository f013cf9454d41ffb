"""How the authors of a model sample it: what belongs to a checkpoint beside its noise and data range."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from prescore.errors import PrescoreError

FACTS = ("configuration", "iterations")  # which are no options of a sampler
POSITIVE = ("iterations", "snr", "corrector_steps", "level_steps", "step_size")


@dataclass(frozen=True, kw_only=True)
class SamplingDefaults:
    """Settings that a model was published with. None is what its authors do not use, or what is not known.

    Each but `configuration` and `iterations` is an option, of the same name, of the samplers that have it.

    Attributes:
        configuration: name of the published configuration; of several that a file fits, all of them, as in "a, b or c".
        iterations: T0, the number of iterations that the step sizes are meant for: steps of a predictor-corrector
            sampler, or Langevin steps at all noise levels together.
        predictor, corrector, corrector_steps, snr: of `PredictorCorrector`.
        level_steps, step_size, denoise: of `AnnealedLangevin`; the step size is that at T0.

    Raises:
        PrescoreError: a number is not positive.
    """

    configuration: str = ""
    iterations: int | None = None
    predictor: str | None = None
    corrector: str | None = None
    corrector_steps: int | None = None
    snr: float | None = None
    level_steps: int | None = None
    step_size: float | None = None
    denoise: bool | None = None

    def __post_init__(self) -> None:
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise PrescoreError(f"{name}: {value!r} among the sampling defaults is not positive")

    @property
    def configurations(self) -> tuple[str, ...]:
        """The published configurations that it may be."""
        return tuple(re.split(", | or | and ", self.configuration)) if self.configuration else ()

    def options(self, names: Collection[str]) -> dict[str, Any]:
        """Those that are known of the sampler's options with these names."""
        return {name: value for name, value in self.known.items() if name in names and name not in FACTS}

    @property
    def known(self) -> Mapping[str, Any]:
        """All that is known, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, "")}
