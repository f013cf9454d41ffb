"""The settings of the papers' tables by name, as options of `prescore.plan`.

A row of a table is a preset. What a paper does not print is not filled in, or is said in its note. T counts iterations:
steps of a predictor-corrector sampler, Langevin steps of NCSN and NCSNv2.

Sources: PDS: Ma et al., "Preconditioned score-based generative models", IJCV 2025, https://arxiv.org/abs/2302.06504,
Table 1, Figure 4 and Section 7; its conference version, https://arxiv.org/abs/2207.02196, supplement, Tables 1 and 2.
EDM: Karras et al., https://arxiv.org/abs/2206.00364, Tables 2, 5 and https://github.com/NVlabs/edm. SEEDS: Gonzalez et
al., https://arxiv.org/abs/2305.14267, Table 1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from prescore.errors import PrescoreError, suggest


class PresetWarning(UserWarning):
    """A preset is used with another model than it was made for."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of a published run.

    Attributes:
        about: data and model.
        source: the table.
        shape: of a sample, (C, H, W).
        configurations: published configurations of the model, as `prescore.load` recognises them; none if its format
            has no names for them.
        options: of `prescore.plan`.
        note: what the paper leaves open, and how it is read here.
    """

    about: str
    source: str
    shape: tuple[int, int, int]
    configurations: tuple[str, ...]
    options: Mapping[str, Any]
    note: str = ""

    def misfit(self, event_shape: tuple[int, ...], configurations: tuple[str, ...]) -> str:
        """In words, that a model is another than the preset's; empty if not, or if that cannot be told."""
        if tuple(event_shape) != self.shape:
            return f"samples of shape {self.shape}, the model makes {tuple(event_shape)}"
        if configurations and not set(configurations) & set(self.configurations):
            return f"{' or '.join(self.configurations) or self.about}, the model is {' or '.join(configurations)}"
        return ""


CIFAR10_VE = ("cifar10-ncsnpp-deep-continuous-ve", "cifar10-ncsnpp-continuous-ve")
PDS, SUPPLEMENT = "PDS", "PDS, conference supplement"
NO_ALPHA = "The paper prints no alpha for these data; it is chosen from the statistics."
SWAPPED = "lambda is that of the supplement's Table 1; Figures 7 and 8 of the paper have 1.1 for church, 1.6 for tower."
ONE_EACH = (
    "One Langevin step at each of T levels, by the step rule: T is T0/c rounded down, T0 all Langevin steps of the "
    "published sampler."
)
ITS_CALLS = "The table has the calls and not the noise levels; the usual ones of the sampler are taken."
# Data: about, shape, configurations, and the options that all rows share.
NCSNPP: Mapping[str, tuple[str, tuple[int, int, int], tuple[str, ...], Mapping[str, Any]]] = {
    "cifar10": ("CIFAR-10, NCSN++", (3, 32, 32), CIFAR10_VE, {"snr": 0.16}),
    "celeba64": ("CelebA, NCSN++", (3, 64, 64), ("celeba64-ncsnpp-continuous-ve",), {"snr": 0.17, "pixel": True}),
    "imagenet64": ("ImageNet, NCSN++", (3, 64, 64), ("imagenet64-ncsnpp-continuous-ve",), {"pixel": True}),
    "coco64": ("COCO, NCSN++", (3, 64, 64), ("coco64-ncsnpp-continuous-ve",), {"pixel": True}),
    "bedroom256": ("LSUN bedroom, NCSN++", (3, 256, 256), ("bedroom256-ncsnpp-continuous-ve",), {"snr": 0.075}),
    "church256": ("LSUN church, NCSN++", (3, 256, 256), ("church256-ncsnpp-continuous-ve",), {"snr": 0.075}),
    "ffhq1024": ("FFHQ, NCSN++", (3, 1024, 1024), ("ffhq1024-ncsnpp-continuous-ve",), {"snr": 0.15, "pixel": True}),
}
# source, data, {T: alpha}
PDS_ROWS: tuple[tuple[str, str, Mapping[int, float | str]], ...] = (
    (f"{PDS}, Table 1", "cifar10", {1000: 50, 400: 25, 200: 12, 100: 5, 50: 1.8}),
    (f"{PDS}, Table 1", "celeba64", {1000: 300, 400: 40, 200: 15, 100: 6, 50: 2.5}),
    (f"{PDS}, Table 5", "imagenet64", dict.fromkeys((1000, 400, 200, 100), "auto")),
    (f"{PDS}, Table 6", "coco64", dict.fromkeys((2000, 1000, 500, 400, 200, 100), "auto")),
    (f"{PDS}, Figure 4", "bedroom256", {80: 2.2}),
    (f"{PDS}, Figure 4", "church256", {80: 2.2}),
    (f"{SUPPLEMENT}, Table 2", "cifar10", {100: 5, 200: 10}),
    (f"{SUPPLEMENT}, Table 2", "bedroom256", {166: 5}),
    (f"{SUPPLEMENT}, Table 2", "church256", {166: 5}),
    (f"{SUPPLEMENT}, Table 2", "ffhq1024", {66: 5}),
)
# data, about, shape, configurations, lambda, T0 and step size of the published sampler, T
NCSNV2_ROWS = (
    ("church96", "LSUN church, NCSNv2", (3, 96, 96), ("church96-ncsnv2",), 1.6, 788 * 4, 4.9e-6, (126, 157, 210)),
    ("tower128", "LSUN tower, NCSNv2", (3, 128, 128), ("tower128-ncsnv2",), 1.1, 1086 * 3, 1.8e-6, (65, 81, 108)),
)
# name, about, shape, configurations, source, steps, churn (S_churn, S_tmin, S_tmax, S_noise) or none, note
EDM_ROWS: tuple[
    tuple[str, str, tuple[int, int, int], tuple[str, ...], str, int, tuple[float, float, float, float] | None], ...
] = (
    ("cifar10", "CIFAR-10, EDM's network", (3, 32, 32), ("edm",), "EDM, Table 2", 18, None),
    ("ffhq64", "FFHQ, EDM's network", (3, 64, 64), ("edm",), "EDM, Table 2", 40, None),
    ("afhqv2-64", "AFHQv2, EDM's network", (3, 64, 64), ("edm",), "EDM, Table 2", 40, None),
    ("imagenet64", "ImageNet, EDM's network", (3, 64, 64), ("edm",), "SEEDS, Table 1", 256, None),
    (
        "cifar10-vp-stochastic",
        "CIFAR-10, DDPM++ of score_sde",
        (3, 32, 32),
        ("cifar10-ddpmpp-continuous-vp", "edm-baseline"),
        "EDM, Table 5",
        256,
        (30, 0.01, 1, 1.007),
    ),
    (
        "cifar10-ve-stochastic",
        "CIFAR-10, NCSN++ of score_sde",
        (3, 32, 32),
        ("cifar10-ncsnpp-continuous-ve", "edm-baseline"),
        "EDM, Table 5",
        256,
        (80, 0.05, 1, 1.007),
    ),
    (
        "imagenet64-adm-stochastic",
        "ImageNet, ADM",
        (3, 64, 64),
        ("edm-baseline",),
        "EDM, Table 5",
        256,
        (80, 0.05, 50, 1.003),
    ),
    (
        "imagenet64-stochastic",
        "ImageNet, EDM's network",
        (3, 64, 64),
        ("edm",),
        "EDM, Table 5",
        256,
        (40, 0.05, 50, 1.003),
    ),
)
# name, about, shape, configurations, calls, prediction
SEEDS_ROWS = (
    ("cifar10-discrete", "CIFAR-10, discrete VP", (3, 32, 32), ("cifar10-ddpm-discrete-vp",), 201, "noise"),
    ("cifar10-cond", "CIFAR-10, conditional VP", (3, 32, 32), ("edm", "edm-baseline"), 129, "noise"),
    (
        "cifar10",
        "CIFAR-10, continuous VP",
        (3, 32, 32),
        ("cifar10-ddpmpp-continuous-vp", "cifar10-ddpmpp-deep-continuous-vp", "edm", "edm-baseline"),
        165,
        "noise",
    ),
    ("celeba64", "CelebA, discrete VP", (3, 64, 64), (), 90, "noise"),
    ("ffhq64", "FFHQ, continuous VP", (3, 64, 64), ("edm", "edm-baseline"), 150, "noise"),
    ("imagenet64", "ImageNet, EDM's network", (3, 64, 64), ("edm",), 270, "edm"),
)


def _table() -> Iterator[tuple[str, Preset]]:
    for source, data, alphas in PDS_ROWS:
        about, shape, configurations, shared = NCSNPP[data]
        for T, alpha in alphas.items():
            own: dict[str, Any] = {
                "sampler": "pds",
                "steps": T,
                "alpha": alpha,
                "pixel": False,
                "predictor": "reverse-diffusion",
            }
            preset = Preset(
                about=about,
                source=source,
                shape=shape,
                configurations=configurations,
                options=MappingProxyType({**own, "corrector": "langevin", **shared}),
                note=NO_ALPHA if alpha == "auto" else "",
            )
            conference = data == "cifar10" and source.startswith(SUPPLEMENT)
            yield f"pds-{'conference-' if conference else ''}{data}-t{T}", preset
    yield (
        "pds-mnist-t20",
        Preset(
            about="MNIST, NCSN",
            source=f"{SUPPLEMENT}, Table 1",
            shape=(1, 28, 28),
            configurations=("mnist-ncsn",),
            options=MappingProxyType(_langevin(10, 5e-5, 1.6) | {"level_steps": 2, "denoise": False}),
            note="No step size is printed. The published one times T0/T is 10 sigma^2, which diverges; here sigma^2/2.",
        ),
    )
    for data, about, shape, configurations, lam, iterations, step_size, numbers in NCSNV2_ROWS:
        for T in numbers:
            own = _langevin(T, step_size, lam) | {"level_steps": 1, "original_steps": iterations}
            yield (
                f"pds-{data}-t{T}",
                Preset(
                    about=about,
                    source=f"{SUPPLEMENT}, Table 1",
                    shape=shape,
                    configurations=configurations,
                    options=MappingProxyType(own),
                    note=f"{ONE_EACH} {SWAPPED}",
                ),
            )
    for name, about, shape, configurations, source, steps, churn in EDM_ROWS:
        own = {"sampler": "edm-heun", "steps": steps}
        if churn is not None:
            own = {"sampler": "edm-stochastic", "steps": steps} | dict(
                zip(("S_churn", "S_tmin", "S_tmax", "S_noise"), churn, strict=True)
            )
        yield (
            f"edm-{name}",
            Preset(
                about=about,
                source=source,
                shape=shape,
                configurations=configurations,
                options=MappingProxyType(own),
            ),
        )
    for name, about, shape, configurations, calls, prediction in SEEDS_ROWS:
        yield (
            f"seeds-{name}",
            Preset(
                about=about,
                source="SEEDS, Table 1",
                shape=shape,
                configurations=configurations,
                options=MappingProxyType({"sampler": "seeds-3", "calls": calls, "prediction": prediction}),
                note=ITS_CALLS,
            ),
        )


def _langevin(levels: int, step_size: float, lam: float) -> dict[str, Any]:
    return {"sampler": "ald", "steps": levels, "step_size": step_size, "radial": (0.2, lam)}


PRESETS: Mapping[str, Preset] = MappingProxyType(dict(_table()))


def find_preset(name: str) -> Preset:
    """The preset of this name. Raises PrescoreError if there is none."""
    if name not in PRESETS:
        raise PrescoreError(f"preset: unknown name {name!r}; {suggest(str(name), PRESETS)}")
    return PRESETS[name]
