"""The preconditioner of a run, from statistics, masks or a formula, and how strong it is."""

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real

from prescore.denoiser import Denoiser
from prescore.errors import PrescoreError, check_choice, check_number
from prescore.operators import Identity
from prescore.operators.skew import RollSkew
from prescore.plan.known import Known
from prescore.precondition import (
    PIXEL_MASKS,
    Preconditioner,
    PublishedMask,
    frequency_preconditioner,
    is_mask,
    load_mask,
    radial_preconditioner,
)
from prescore.samplers import AlphaRelation, Entry, PredictorCorrector, Sampler, choose_alpha, find_sampler

WEAKEST_ALPHA = 1e4  # what stands for no preconditioner among the settings
SKEWS = {"S1": 1, "S2": 10, "S3": 100}  # the papers' S: places that they roll images by
ZERO_SKEWS = ("S", "S4", "S5", "S6")


def check_alone(
    option: str, entry: Entry, sampler: str, made: Mapping[str, object], others: Mapping[str, object]
) -> None:
    """Raise PrescoreError unless the sampler can use a preconditioner, and nothing else says what it is to be."""
    if not entry.takes("preconditioner"):
        raise PrescoreError(f"{option}: sampler {sampler!r} cannot use a preconditioner")
    for name, value in {**others, "preconditioner": made.get("preconditioner")}.items():
        if value is not None and value is not False:
            raise PrescoreError(f"{option}: does nothing beside {name}")


def disc(radial: tuple[float, float], shape: tuple[int, ...]) -> Preconditioner:
    """The disc of the papers' NCSN experiments, its radius a share of the height."""
    if not isinstance(radial, tuple | list) or len(radial) != 2:
        raise PrescoreError(f"radial: {radial!r} given; two numbers are needed, such as 0.2,1.6")
    for value in radial:
        check_number("radial", value)
    R, lam = radial
    return radial_preconditioner(shape, R * shape[-2] if len(shape) > 1 else R, lam)


def check_mask(option: str, mask: PublishedMask, denoiser: Denoiser, sampler: str) -> None:
    """Raise PrescoreError unless a mask fits the model, and the sampler, if one is named, takes a preconditioner."""
    if not sampler or not find_sampler(sampler).takes("preconditioner"):
        raise PrescoreError(
            f"{option}: {mask.source} is a mask, of which a preconditioner is made and nothing else; name a sampler "
            "that takes one, such as pds, or measure statistics by `prescore calibrate DATA --out FILE`"
        )
    if mask.event_shape != tuple(denoiser.event_shape):
        raise PrescoreError(
            f"{option}: {mask.source} is a mask for events of shape {mask.event_shape}, the model's have "
            f"{tuple(denoiser.event_shape)}"
        )


def scaled(
    known: Known, strength: float, pixel: bool, pixel_mask: str | None, pixel_alpha: float | None
) -> tuple[Preconditioner, Mapping[str, object]]:
    """What scales frequencies, and pixels if they are to be scaled too; and what of it decides a sample."""
    mask = known.mask
    M = frequency_preconditioner(known.needed, strength) if mask is None else mask.preconditioner(strength)
    facts: dict[str, object] = {"alpha": strength, "pixel": pixel, **({} if mask is None else mask.facts)}
    if pixel:
        part, own = _pixel_part(known, pixel_mask, pixel_alpha, strength)
        M, facts = M @ part, {**facts, **own}
    return M, facts if pixel_alpha is None else {**facts, "pixel_alpha": float(pixel_alpha)}


def _pixel_part(
    known: Known, mask: str | None, alpha: float | None, strength: float
) -> tuple[Preconditioner, Mapping[str, object]]:
    """What scales pixels, by default as strongly as frequencies are scaled, and what of it decides a sample."""
    if mask == "mean" and alpha is not None:
        raise PrescoreError("pixel_alpha: does nothing beside the pixel_mask 'mean'")
    alpha = strength if alpha is None else alpha
    if mask is not None and is_mask(mask):
        stored = load_mask(mask, "pixel")
        check_mask("pixel_mask", stored, known.denoiser, "pds")
        return stored.preconditioner(alpha), stored.facts
    if known.mask is not None:
        raise PrescoreError("pixel_mask: a mask of frequencies says nothing of pixels; give the authors' .npy of these")
    check_choice("pixel_mask", mask or "log", PIXEL_MASKS)
    return PIXEL_MASKS[mask or "log"](known.needed, alpha), {} if mask is None else {"pixel_mask": mask}


def with_skew(M: Preconditioner | None, skew: str | None, omega: float | None) -> Preconditioner:
    """A preconditioner, or the identity, with a skew-symmetric term."""
    if skew is None or omega is None:
        raise PrescoreError("skew, omega: give both, the term and its weight, such as S1 and 1000")
    check_number("omega", omega)
    if skew in ZERO_SKEWS:
        raise PrescoreError(f"skew: {skew!r} is the zero operator on real samples; {', '.join(SKEWS)} do something")
    check_choice("skew", skew, SKEWS)
    return replace(M or Preconditioner(Identity()), skew=RollSkew((SKEWS[skew],) * 2), omega=float(omega))


def strength_of(
    alpha: float | str | None, name: str, bare: Sampler | None, known: Known, pixel: bool
) -> tuple[float, str]:
    """alpha as a number, and why if it was left to be chosen.

    Args:
        bare: then, the sampler on its levels without preconditioner.
    """
    if bare is None:
        if not isinstance(alpha, Real) or isinstance(alpha, bool):
            raise PrescoreError(f"alpha: {alpha!r} given; a number, at least 1, or auto is needed")
        return float(alpha), ""
    if not isinstance(bare, PredictorCorrector):
        raise PrescoreError(
            f"alpha: is chosen for predictor-corrector samplers only; give sampler {name!r} a number, such as 5 "
            "(1 is the strongest)"
        )
    if known.mask is not None:
        raise PrescoreError(f"alpha: cannot be chosen from the mask {known.mask.source}; give a number, such as 5")
    denoiser = known.denoiser
    choice = choose_alpha(bare, known.needed, denoiser.sigma_min, denoiser.sigma_max, pixel=pixel)
    # Three digits are all that matters, and do not depend on how a processor rounds.
    return float(f"{min(choice.alpha, WEAKEST_ALPHA):.3g}"), choice.reason


def related(pairs: Mapping[int, float], T: int, pixel: bool) -> tuple[float, str]:
    """alpha by the papers' relation, and why."""
    relation = AlphaRelation.fit(pairs, 2 if pixel else 1, relative=True)
    strength = float(f"{min(relation.alpha(T), WEAKEST_ALPHA):.3g}")
    line = f"(1 + 1/alpha){'^2' if pixel else ''} - 1 = {relation.a:.3g}/T {relation.b:+.3g}"
    if strength < 1:
        raise PrescoreError(f"alpha_relation: {line} gives {strength} at T = {T}, below 1; measure one at fewer steps")
    return strength, f"{line} by the alphas given"
