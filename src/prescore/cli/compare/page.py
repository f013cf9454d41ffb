"""What `prescore compare` writes: results.json, results.csv, and report.html, one file that needs no other."""

import base64
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from prescore.cli.compare.panels import Line, colour, legend, quality_panel, sign, spectrum_panel
from prescore.cli.plots import new_figure
from prescore.cli.report import calls_text, show
from prescore.comparison.reference import ReferenceFigures
from prescore.comparison.runs import Result, Run
from prescore.errors import PrescoreError
from prescore.files import write_atomically
from prescore.images import as_png
from prescore.jackknife import BLOCKS, Estimate, indistinguishable, with_error
from prescore.metrics import CONDITIONING, METRICS
from prescore.metrics.evaluation import HIGHER_IS_BETTER
from prescore.version import __version__

COLUMNS = ("sampler", "allowed", "calls", "steps", "seconds", *CONDITIONING)
SECTIONS = {
    "pictures": "Pictures",
    "calls": "Quality against calls",
    "seconds": "Quality against seconds",
    "spectra": "Power spectra",
    "runs": "All runs",
}
NONE_TOLD = "none that can be told from the others"  # instead of a sampler in the verdict
TELLING = {"kernel": "kernel distance", "frechet": "Frechet distance", "spectrum": "the error of the spectrum"}
ENOUGH = 1000  # samples, which tell small differences from chance
MOST_PICTURES = 12  # in a row
SHEET, LEAST_SIDE = 768, 64  # pixels of a row, before small pictures are enlarged, and of a picture


@dataclass(frozen=True, eq=False)
class Report:
    """All that a reader is told.

    Attributes:
        title: of the page.
        facts: what was compared, by name.
        command: that makes it again.
        runs: the plan, with what came of each.
        figures: of the true images.
        n: samples in each run.
        seeds: of the first samples, those with pictures.
        pictures: uint8 (k, C, H, W), by key of the run; of these seeds, or fewer true images under the key "".
        settings: what all runs have in common, JSON values.
        lacking: what the reference cannot say, or nothing.
    """

    title: str
    facts: Mapping[str, str]
    command: str
    runs: Sequence[tuple[Run, Result]]
    figures: ReferenceFigures
    n: int
    seeds: Sequence[int]
    pictures: Mapping[str, Tensor]
    settings: Mapping[str, object]
    lacking: str = ""

    @property
    def samplers(self) -> dict[str, int]:
        """Their names, each with the number of its style."""
        return {name: k for k, name in enumerate(dict.fromkeys(run.name for run, _ in self.runs))}

    @property
    def allowed(self) -> list[int]:
        return sorted({run.allowed for run, _ in self.runs})

    @property
    def metrics(self) -> list[str]:
        """Those that some run has."""
        found = {name for _, result in self.runs for name in result.metrics or ()}
        return [name for name in METRICS if name in found]

    @property
    def verdict(self) -> str:
        """In one sentence which sampler is nearest to the data with how many calls, and how sure that is."""
        name = next((name for name in TELLING if name in self.metrics), None)
        nearest: dict[str, list[str]] = {}
        for calls in self.allowed if name else ():
            found = self.estimates(name or "", calls)
            if len(found) > 1:
                first = min(found, key=lambda run: found[run].value)
                names = list(dict.fromkeys([first, *indistinguishable(found, higher=False)]))
                if len(names) == len(found):
                    nearest.setdefault(NONE_TOLD, []).append(str(calls))
                    continue
                who = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
                nearest.setdefault(who, []).append(str(calls))
        if not nearest:
            return ""
        who = "; ".join(f"{samplers} with {calls_text(', '.join(calls))}" for samplers, calls in nearest.items())
        floor = (self.figures.floor or {}).get(name or "")
        error = (self.figures.floor_errors or {}).get(name or "")
        beside = "" if floor is None else f", where {self.n} true images have {with_error(floor, error)}"
        few = f" With {self.n} samples nothing can be told from chance; take {ENOUGH}." if self.n < BLOCKS else ""
        is_shared = any(" and " in samplers for samplers in nearest)
        apart = " Samplers named together cannot be told apart." if is_shared and not few else ""
        return f"Nearest to the data by {TELLING[name or '']}{beside}: {who}.{few or apart}"

    def estimates(self, metric: str, allowed: int) -> dict[str, Estimate]:
        """The values of a metric, by sampler, of the runs that were allowed so many calls."""
        found = {run.name: result.estimates for run, result in self.runs if run.allowed == allowed}
        return {name: estimates[metric] for name, estimates in found.items() if metric in estimates}

    @property
    def notes(self) -> list[str]:
        """One line each; what holds for some runs only says for which."""
        finished = [(run, result) for run, result in self.runs if result.failure is None]
        runs: dict[str, list[str]] = {}
        for run, result in finished:
            for note in result.notes:
                runs.setdefault(note, []).append(f"{run.name} with {calls_text(run.calls)}")
        taken: dict[str, list[str]] = {}
        for run, _ in self.runs:
            if run.taken is not None:
                taken.setdefault(f"{run.name} took {run.taken}", []).append(str(run.calls))
        choices = [f"with {calls_text(', '.join(calls))} {text}" for text, calls in taken.items()]
        lines = [note if len(of) == len(finished) else f"{', '.join(of)}: {note}" for note, of in runs.items()]
        other = [run for run, _ in self.runs if run.calls != run.allowed]
        parts = [f"{run.name} {run.calls} of {run.allowed}" for run in other]
        lines += [self.lacking] if self.lacking else []
        return choices + lines + ([f"calls that cannot be hit exactly: {', '.join(parts)}"] if parts else [])


def pictures_in_a_row(shape: Sequence[int]) -> int:
    """How many pictures of this shape stand side by side."""
    return max(4, min(MOST_PICTURES, SHEET // shape[-1]))


def check_parts() -> None:
    """Raise PrescoreError now if the report could not be made later."""
    _environment()
    new_figure(1, 1)


def write_report(folder: Path, report: Report) -> None:
    """Write the three files into a folder, each whole or not at all."""
    write_atomically(folder / "results.json", as_json(report))
    write_atomically(folder / "results.csv", as_csv(report).encode())
    write_atomically(folder / "report.html", as_html(report).encode(errors="backslashreplace"))


def as_json(report: Report) -> bytes:
    """Everything that was measured."""
    runs = [
        {"sampler": run.name, "allowed": run.allowed, "calls": run.calls, "steps": run.steps}
        | asdict(result)
        | {"errors": result.errors}
        | {"settings": run.settings}
        for run, result in report.runs
    ]
    values = {
        "command": report.command,
        "settings": report.settings,
        "reference": asdict(report.figures),
        "runs": runs,
        "notes": report.notes,
        "library_version": __version__,
    }
    return (json.dumps(values, indent=1, allow_nan=False) + "\n").encode()


def as_csv(report: Report) -> str:
    """One line a run, and one for true samples if there is a floor."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    errors = [f"{name} error" for name in report.metrics]
    writer.writerow([*COLUMNS, *report.metrics, *errors, "failure"])
    for run, result in report.runs:
        own = [result.errors.get(name) for name in report.metrics]
        writer.writerow([*values_of(run, result, report.metrics), *own, result.failure])
    if report.figures.floor is not None:
        writer.writerow(
            [
                "true samples",
                *[None] * (len(COLUMNS) - 1),
                *(report.figures.floor.get(name) for name in report.metrics),
                *((report.figures.floor_errors or {}).get(name) for name in report.metrics),
                None,
            ]
        )
    return buffer.getvalue()


def values_of(run: Run, result: Result, metrics: Sequence[str]) -> list[object]:
    """A row under `COLUMNS` and the metrics; None is missing."""
    return [
        run.name,
        run.allowed,
        run.calls,
        run.steps,
        result.seconds,
        *((result.conditioning or {}).get(name) for name in CONDITIONING),
        *((result.metrics or {}).get(m) for m in metrics),
    ]


def as_html(report: Report) -> str:
    """The page."""
    qualities = [part for part in (_quality(report, by) for by in ("calls", "seconds")) if part["figures"]]
    spectra = _spectra(report)
    present = {
        "runs",
        *(["pictures"] if report.pictures else []),
        *(part["id"] for part in qualities),
        *(["spectra"] if spectra else []),
    }
    width, height = _size(report)
    template = _environment().get_template("report.html.jinja")
    return template.render(
        title=report.title,
        facts=report.facts,
        command=report.command,
        verdict=report.verdict,
        notes=report.notes,
        sections={name: text for name, text in SECTIONS.items() if name in present},
        legend=legend(report.samplers),
        blocks=_blocks(report),
        width=width,
        height=height,
        qualities=qualities,
        spectra=spectra,
        runs=_table(report),
        version=__version__,
    )


def _environment() -> Any:
    try:
        import jinja2
    except ImportError:
        raise PrescoreError("reports need Jinja2; pip install '.[cli]' in the clone") from None
    return jinja2.Environment(
        loader=jinja2.PackageLoader("prescore.cli"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _markup(svg: str) -> Any:
    """An element that is put into the page as it is."""
    from markupsafe import Markup

    return Markup(svg)


def _size(report: Report) -> tuple[int, int]:
    """Width and height of a picture on the page: small ones are enlarged by a whole number."""
    H, W = next((x.shape[-2:] for x in report.pictures.values()), (1, 1))
    scale = max(1, round(LEAST_SIDE / max(H, W)))
    return scale * W, scale * H


def _blocks(report: Report) -> list[dict[str, Any]]:
    """Tables of pictures: true ones, then one for each number of calls with a row for each sampler."""
    blocks = []
    if "" in report.pictures:
        true = [{"data": _png(image), "alt": "true image"} for image in report.pictures[""]]
        blocks.append({"title": "True images", "columns": [], "rows": [_row("data", images=true)]})
    for allowed in report.allowed:
        rows = []
        for run, result in report.runs:
            if run.allowed == allowed:
                of = f"{run.name}, {calls_text(run.calls)}"
                images = [
                    {"data": _png(image), "alt": f"{of}, seed {seed}"}
                    for image, seed in zip(report.pictures.get(run.key, ()), report.seeds, strict=False)
                ]
                style = report.samplers[run.name]
                count = "" if run.calls == allowed else calls_text(run.calls)
                rows.append(_row(run.name, images, sign(style), colour(style), count, result.failure))
        columns = [f"seed {seed}" for seed in report.seeds]
        blocks.append({"title": calls_text(allowed, "network "), "columns": columns, "rows": rows})
    return blocks


def _row(
    name: str,
    images: Sequence[Mapping[str, str]],
    sign: str = "",
    colour: str = "",
    count: str = "",
    failure: str | None = None,
) -> dict[str, Any]:
    return {"name": name, "images": images, "sign": sign, "colour": colour, "count": count, "failure": failure}


def _png(image: Tensor) -> str:
    return base64.b64encode(as_png(image)).decode()


def _quality(report: Report, by: str) -> dict[str, Any]:
    """A figure for each metric, against calls or seconds."""
    floor, floor_errors = report.figures.floor or {}, report.figures.floor_errors or {}
    figures = []
    for metric in report.metrics:
        lines = []
        for name, style in report.samplers.items():
            points = {}
            for run, result in report.runs:
                value = (result.metrics or {}).get(metric)
                if run.name == name and value is not None and result.seconds is not None:
                    points[run.steps] = (run.calls if by == "calls" else result.seconds, value, result.errors[metric])
            if points:
                x, y, errors = zip(*(points[steps] for steps in sorted(points)), strict=True)
                lines.append(Line(name, style, x, y, errors))
        if lines:
            better = "higher" if metric in HIGHER_IS_BETTER else "lower"
            title = f"{metric} ({better} is better)"
            label = "network calls" if by == "calls" else f"seconds for {report.n} samples"
            ticks = report.allowed if by == "calls" else None
            beside = floor.get(metric), metric in HIGHER_IS_BETTER, floor_errors.get(metric)
            svg = quality_panel(title, lines, label, ticks, *beside)
            figures.append({"svg": _markup(svg), "label": f"{title}, against {label}"})
    dashed = f" The dashed line is what {report.n} true images reach beside the others." if floor else ""
    bars = " Bars are one standard error over the seeds" if report.n >= BLOCKS else ""
    bars += ("; so is the band about the line." if floor else ".") if bars else ""
    cost = "a sample" if by == "calls" else "sampling alone, after a first call of the network"
    return {"id": by, "figures": figures, "text": f"{by.capitalize()} of {cost}.{dashed}{bars}"}


def _spectra(report: Report) -> dict[str, Any] | None:
    """A figure of power against frequency for each number of calls; the ratio to the data's where it is known."""
    data = report.figures.spectrum
    # The mean, whose frequency is 0, has no place on a logarithmic axis.
    known = None if data is None or min(data[1:]) <= 0 else data[1:]
    powers, ratios = [], []
    for allowed in report.allowed:
        lines = []
        for run, result in report.runs:
            if run.allowed == allowed and result.spectrum is not None and min(result.spectrum[1:]) > 0:
                K = len(result.spectrum) - 1
                x = [k / (2 * K) for k in range(1, K + 1)]
                lines.append(Line(run.name, report.samplers[run.name], x, result.spectrum[1:]))
        if lines:
            powers.append(_figure(f"{calls_text(allowed)}, power", lines, known))
        if lines and known is not None:
            parts = [replace(line, y=[y / true for y, true in zip(line.y, known, strict=True)]) for line in lines]
            ratios.append(_figure(f"{calls_text(allowed)}, power over that of the data", parts, [1.0] * len(known)))
    text = "Power of the samples at each frequency, mean over channels." + " Dashed: the data." * bool(known)
    return {"rows": [row for row in (powers, ratios) if row], "text": text} if powers else None


def _figure(title: str, lines: Sequence[Line], data: Sequence[float] | None) -> dict[str, str]:
    return {"svg": _markup(spectrum_panel(title, lines, data)), "label": title}


def _table(report: Report) -> dict[str, Any]:
    """All runs: the text of each cell, the value that it is sorted by, and whether it is among the best."""
    names = [*COLUMNS, *report.metrics]
    failures = ["what went wrong"] if any(result.failure for _, result in report.runs) else []
    best = {
        (allowed, name): indistinguishable(report.estimates(name, allowed), name in HIGHER_IS_BETTER)
        for allowed in report.allowed
        for name in report.metrics
    }
    rows = []
    for run, result in report.runs:
        values = zip(names, values_of(run, result, report.metrics), strict=True)
        cells = [
            _cell(value, result.errors.get(name), "best" if run.name in best.get((run.allowed, name), ()) else "")
            for name, value in values
        ]
        rows.append(cells + [_cell(result.failure or "", None, "reason fault") for _ in failures])
    columns = [
        {"name": name, "first": "descending" if name in HIGHER_IS_BETTER else "ascending"} for name in names + failures
    ]
    floor = None
    if (true := report.figures.floor) is not None:
        errors = report.figures.floor_errors or {}
        values_of_floor = [_text(true.get(name), errors.get(name)) for name in report.metrics]
        floor = [f"true samples, n = {report.n}", *[""] * (len(COLUMNS) - 1), *values_of_floor, *[""] * len(failures)]
    text = "Click on a column to sort by it. Allowed are the calls that were asked for."
    return {"columns": columns, "rows": rows, "floor": floor, "text": f"{text} {_how_sure(report)}".strip()}


def _how_sure(report: Report) -> str:
    """What is behind the sign ±, and what bold means."""
    if not any(error is not None for _, result in report.runs for error in result.errors.values()):
        return f"Fewer than {BLOCKS} samples give no errors, so that nothing is bold." if report.n < BLOCKS else ""
    return (
        f"± is one standard error of the value with {report.n} samples, over draws of other seeds beside the same true "
        "samples: a jackknife over ten blocks of seeds. What is bold cannot be told from the best among as many calls, "
        "at 95 %, by the differences over the same seeds, which tell more apart than the errors of the single values."
    )


def _cell(value: object, error: float | None, kind: str) -> dict[str, object]:
    return {"value": "" if value is None else value, "text": _text(value, error), "kind": kind}


def _text(value: object, error: float | None = None) -> str:
    if isinstance(value, float) and error is not None:
        return with_error(value, error)
    return "–" if value is None else show(value)
