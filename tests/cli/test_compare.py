"""`prescore compare`: what it measures, keeps, goes on with and refuses, and the report as a browser gets it."""

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import save_file
from support import with_function

import prescore
from prescore.cli import main
from prescore.cli.app import app
from prescore.cli.compare.command import command_line
from prescore.cli.compare.page import Report
from prescore.cli.compare.panels import COLOURS
from prescore.comparison.reference import ReferenceFigures
from prescore.comparison.runs import Result
from prescore.denoiser import Denoiser
from prescore.images import to_uint8
from prescore.jackknife import BLOCKS
from prescore.metrics import (
    CONDITIONING,
    METRICS,
    Conditioning,
    evaluate,
    hold_out,
    make_features,
    measure,
    power_spectrum_error,
)

Cli = Callable[..., Any]
Refused = Callable[..., str]
TEMPLATES = Path(prescore.__file__).parent / "cli" / "templates"
N = 12
DATA = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
PIXELS = ("--features", "pixels")
VOID = {"meta", "img", "br", "hr", "link", "input"}


@pytest.fixture
def figures() -> None:
    """For tests of what is drawn, which takes most of the time of so small a comparison."""


@pytest.fixture(autouse=True)
def no_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "figures" not in request.fixturenames:
        for name in ("quality_panel", "spectrum_panel"):
            monkeypatch.setattr(f"prescore.cli.compare.page.{name}", lambda *_: "<svg></svg>")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "data.npy", DATA)
    return tmp_path / "data.npy"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def arguments(model: object, out: Path, samplers: str = "dpmpp-2m,ddim", calls: str = "2,4") -> list[object]:
    return ["compare", model, "--samplers", samplers, "--calls", calls, "--n", N, "--seed", 3, "--out", out]


def results(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_bytes())


def kept(out: Path) -> dict[str, tuple[bytes, int]]:
    """The files of the finished runs, and when they were written."""
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted((out / "runs").iterdir())}


class Page(HTMLParser):
    """A page whose elements are closed in order; what it refers to, its texts by element, its images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(out: Path) -> Page:
    return Page((out / "report.html").read_text())


def test_the_numbers_are_those_of_sample_and_evaluate(cli: Cli, model: Path, data: Path, out: Path) -> None:
    given = ("--reference", data, "--features", "mnist-classifier", "--batch-size", 5)
    code, printed, err = cli(*arguments(model, out), *given)
    assert (code, err) == (0, "")
    assert f"The report is {out / 'report.html'}." in printed
    features = make_features("mnist-classifier", (1, 8, 8))
    true = torch.from_numpy(DATA)[:, None]
    reference = measure(true, features)
    found = results(out)
    assert [(run["sampler"], run["allowed"]) for run in found["runs"]] == [
        (name, calls) for calls in (2, 4) for name in ("dpmpp-2m", "ddim")
    ]
    for run in found["runs"]:
        x = prescore.sample(
            prescore.load(model),
            prescore.make_sampler(run["sampler"], steps=run["steps"]),
            seeds=range(3, 3 + N),
            batch_size=5,
            callback=(conditioning := Conditioning()),
            progress=False,
        )
        assert run["conditioning"] == pytest.approx(conditioning.values, rel=1e-12)
        assert run["metrics"] == pytest.approx(evaluate(measure(to_uint8(x), features), reference), rel=1e-6)
        assert run["seconds"] > 0
        with np.load(out / "runs" / f"{run['sampler']}-{run['steps']}.npz") as file:
            assert np.array_equal(file["images"][..., 0], x[:, 0].float().numpy())
            assert file["seeds"].tolist() == list(range(3, 3 + N))
    parts = hold_out(true, N, seed=3)
    assert parts is not None
    floor = evaluate(*(measure(part, features) for part in parts))
    assert found["reference"]["floor"] == pytest.approx(floor, rel=1e-6)
    with open(out / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["sampler"] for row in rows] == ["dpmpp-2m", "ddim", "dpmpp-2m", "ddim", "true samples"]
    for row, values in zip(rows, [*(run["metrics"] for run in found["runs"]), floor], strict=True):
        assert {name: float(row[name]) for name in METRICS} == pytest.approx(values, rel=1e-6)
    assert [text for tag, text in page_of(out).texts if tag == "button"][7:] == list(METRICS)


def test_without_a_reference_spectra_stand_beside_the_model_s_own(
    cli: Cli, shipped: str, statistics: Path, model: Path, out: Path, tmp_path: Path
) -> None:
    assert cli(*arguments(shipped, out, "p-ode-2m,pds,pc", "4")).code == 0
    found = results(out)
    power = prescore.load_statistics(statistics)
    for run in found["runs"]:
        with np.load(out / "runs" / f"{run['sampler']}-{run['steps']}.npz") as file:
            x = torch.from_numpy(file["images"][..., 0])[:, None]
        assert run["metrics"] == {"spectrum": pytest.approx(power_spectrum_error(x, power))}
    by_name = {run["sampler"]: run["settings"] for run in found["runs"]}
    assert by_name["pds"]["alpha_chosen"]
    assert "statistics" in by_name["p-ode-2m"]
    assert "statistics" not in by_name["pc"]  # which would be preconditioned by them
    alone = "of the data only the power spectrum is known: true samples, --reference DATA, add distances to them"
    assert alone in found["notes"]
    # A model without statistics still has pictures and seconds, and the report says what is missing for quality.
    code, printed, _ = cli(*arguments(model, tmp_path / "none", "dpmpp-2m", "4"))
    assert code == 0
    (run,) = results(tmp_path / "none")["runs"]
    assert run["metrics"] == {}
    page = page_of(tmp_path / "none")
    assert len(page.all("img")) == N
    note = (
        "no column says how near to the data samples are: nothing says what the data are like; give true ones, "
        "--reference DATA, or for their power spectrum alone --statistics FILE"
    )
    assert f"note: {note}\n" in printed
    assert ("li", note) in page.texts


def test_calls_are_at_most_what_was_asked_for(cli: Cli, model: Path, out: Path) -> None:
    code, printed, _ = cli(*arguments(model, out, "seeds-2,dpmpp-2m", "4,5"))
    assert code == 0
    runs = {(run["sampler"], run["allowed"]): (run["calls"], run["steps"]) for run in results(out)["runs"]}
    assert runs == {
        ("seeds-2", 4): (3, 2),
        ("seeds-2", 5): (5, 3),
        ("dpmpp-2m", 4): (4, 4),
        ("dpmpp-2m", 5): (5, 5),
    }
    note = "calls that cannot be hit exactly: seeds-2 3 of 4"
    assert f"note: {note}" in printed
    assert ("li", note) in page_of(out).texts


@pytest.mark.usefixtures("figures")
def test_the_report_needs_nothing_else_and_is_well_formed(
    cli: Cli, shipped: str, data: Path, out: Path, tmp_path: Path
) -> None:
    assert cli(*arguments(shipped, out), "--reference", data, "--metrics", "frechet,precision,spectrum").code == 0
    text, page = (out / "report.html").read_text(), page_of(out)
    references = [a[name] or "" for _, a in page.tags for name in ("src", "href", "xlink:href", "action") if name in a]
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in references)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}  # clipping inside the figures
    assert not re.search(r"https?://(?!www\.w3\.org/(2000/svg|1999/xlink))", text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    targets = [target[1:] for target in references if target.startswith("#")]
    assert set(targets) <= set(ids)
    assert len(page.all("img")) == N + 4 * N  # true ones, and those of four runs
    assert [image["alt"] for image in page.all("img")][N : N + 2] == [
        "dpmpp-2m, 2 calls, seed 3",
        "dpmpp-2m, 2 calls, seed 4",
    ]
    assert all(image["alt"] for image in page.all("img"))
    # Three metrics against calls and seconds; the spectrum and its ratio for two numbers of calls.
    assert len(page.all("svg")) == 2 * 3 + 2 * 2
    figures = page.all("figure")
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)
    assert "frechet (lower is better), against network calls" in [figure["aria-label"] for figure in figures]
    headers = [a for a in page.all("th") if "aria-sort" in a]
    columns = ["sampler", "allowed", "calls", "steps", "seconds", *CONDITIONING]
    columns += ["frechet", "precision", "spectrum"]
    assert [text for tag, text in page.texts if tag == "button"] == columns
    assert [a["data-first"] for a in headers] == ["ascending"] * 8 + ["descending", "ascending"]
    cells = [a["data-value"] for tag, a in page.tags if tag in ("td", "th") and "data-value" in a]
    rows = [cells[k : k + len(columns)] for k in range(0, len(cells), len(columns))]
    expected = [
        [*(run[name] for name in columns[:5]), *(run["conditioning"][name] for name in CONDITIONING)]
        for run in results(out)["runs"]
    ]
    assert [row[:7] for row in rows] == [[str(value) for value in row] for row in expected]
    assert [float(row[7] or 0) for row in rows] == [run["metrics"]["frechet"] for run in results(out)["runs"]]
    best = min(results(out)["runs"][:2], key=lambda run: run["metrics"]["frechet"])["metrics"]["frechet"]
    assert f'data-value="{best}" class="best"' in text
    facts = dict(zip(*[[t for tag, t in page.texts if tag == kind] for kind in ("dt", "dd")], strict=False))
    assert facts["reference"].startswith(f"{data}, 40 images, digest ")
    assert facts["features"] == "means-2x2, 16 an image"
    assert facts["floor"] == f"{N} of the true images beside the others"
    assert facts["library"] == f"prescore {prescore.__version__}"


def test_names_are_text_in_the_page(cli: Cli, model: Path, out: Path, tmp_path: Path) -> None:
    named = shutil.copy(model, tmp_path / "<script>alert(1)<b>&.safetensors")
    assert cli(*arguments(named, out, "ddim", "2")).code == 0
    page = page_of(out)
    assert len(page.all("script")) == 1
    assert not page.all("b")
    assert ("dd", str(named)) in page.texts


def test_the_command_in_the_report_makes_it_again(cli: Cli, model: Path, data: Path, out: Path) -> None:
    given = (*arguments(model, out), "--reference", data, "--range", 0, 2, "--metrics", "kernel", "--dtype", "float64")
    assert cli(*given).code == 0
    page, files = (out / "report.html").read_bytes(), kept(out)
    (command,) = [text for tag, text in page_of(out).texts if tag == "code"]
    program, *words = shlex.split(command)
    assert program == "prescore"
    assert "--batch-size" not in words
    (out / "report.html").unlink()
    assert main(words) == 0
    assert (out / "report.html").read_bytes() == page
    assert kept(out) == files  # nothing was drawn again


def test_every_kind_of_option_is_in_the_command() -> None:
    words = [
        "mnist-ve",
        "--samplers",
        "pc",
        "--calls",
        "4",
        "--out",
        "a b",
        "--range",
        "0.0",
        "2.0",
        "--n",
        "5",
        "--raw",
    ]
    context = typer.main.get_command(app).commands["compare"].make_context("compare", list(words))  # type: ignore[attr-defined]
    assert shlex.split(command_line(context)) == ["prescore", "compare", *words]


def test_ctrl_c_keeps_the_finished_runs(
    cli: Cli, model: Path, data: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [*arguments(model, out), "--reference", data, "--metrics", "kernel"]
    calls = 0

    def interrupted(denoiser: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 1 + 2 + 2 + 3:  # the first call, two runs of two calls, and in the third
            signal.raise_signal(signal.SIGINT)
        return denoiser(x, sigma)

    with monkeypatch.context() as patch:
        with_function(patch, interrupted)
        code, _, err = cli(*given)
    assert (code, err.count("\n")) == (130, 1)
    assert f"2 of 4 runs are in {out}, the same command draws the others" in err
    files = kept(out)
    assert sorted(files) == ["ddim-2.json", "ddim-2.npz", "dpmpp-2m-2.json", "dpmpp-2m-2.npz"]
    assert not (out / "report.html").exists()
    assert cli(*given).code == 0
    after = kept(out)
    assert {name: after[name] for name in files} == files
    whole = [*arguments(model, tmp_path / "whole"), "--reference", data, "--metrics", "kernel"]
    assert cli(*whole).code == 0
    runs = [[run["metrics"]["kernel"] for run in results(folder)["runs"]] for folder in (out, tmp_path / "whole")]
    assert runs[0] == pytest.approx(runs[1], rel=1e-6)


def test_every_call_has_as_many_rows(cli: Cli, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []

    def counted(denoiser: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return denoiser(x, sigma)

    with_function(monkeypatch, counted)
    assert (
        cli("compare", model, "--samplers", "ddim", "--calls", 2, "--n", 4, "--batch-size", 3, "--out", out).code == 0
    )
    assert rows == [3] * (1 + 2 * 2)


def test_what_a_network_raises_is_one_line(
    cli: Cli, refused: Callable[..., str], model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing_at(last: int) -> Callable[..., torch.Tensor]:
        calls = []

        def fail(denoiser: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            calls.append(sigma)
            if len(calls) == last:
                raise KeyError("mine")
            return denoiser(x, sigma)

        return fail

    for last in (1, 4):  # in the first call of all, and in the second run
        with_function(monkeypatch, failing_at(last))
        assert "the model failed" in (message := refused(*arguments(model, out)))
        assert message.endswith("KeyError: 'mine'\n")
    assert len(kept(out)) == 2


def test_samplers_and_calls_may_be_added(cli: Cli, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli(*arguments(model, out, "ddim", "2"))
    files, calls = kept(out), []

    def counted(denoiser: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        calls.append(sigma)
        return denoiser(x, sigma)

    with_function(monkeypatch, counted)
    assert cli(*arguments(model, out, "ddim,dpmpp-2m", "2,3")).code == 0
    assert len(calls) == 1 + 2 + 3 + 3
    assert {name: kept(out)[name] for name in files} == files
    assert len(results(out)["runs"]) == 4


def test_a_folder_of_other_settings_is_refused(
    cli: Cli, refused: Refused, model: Path, data: Path, out: Path, tmp_path: Path
) -> None:
    mine = shutil.copy(model, tmp_path / "m.safetensors")
    given = [*arguments(mine, out, "ddim", "2"), "--reference", data, "--metrics", "frechet"]
    cli(*given)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for option, value, text in (
        ("--seed", 4, "seed = 3, now it is 4"),
        ("--n", 9, "n = 12, now it is 9"),
        ("--dtype", "float64", "dtype = float32, now it is float64"),
        ("--batch-size", 7, "batch_size = 64, now it is 7"),
        ("--features", "pixels", "features = means-2x2, now it is pixels"),
        ("--metrics", "kernel", "metrics = ['frechet'], now it is ['kernel']"),
        ("--reference-n", 30, "reference = "),
    ):
        assert f"{out}: holds samples drawn with {text}" in refused(*given, option, value)
    np.save(data, 255 - DATA)
    assert "holds samples drawn with reference = " in refused(*given)
    assert "holds samples drawn with reference = " in refused(*arguments(mine, out, "ddim", "2"))
    np.save(data, DATA)
    with safe_open(mine, "pt") as file:
        tensors = {name: 2 * file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors, mine, file.metadata())
    assert "model_sha256" in refused(*given)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_folders_that_hold_something_else(
    cli: Cli, refused: Refused, model: Path, shipped: str, out: Path, tmp_path: Path
) -> None:
    out.mkdir()
    (out / "photo.png").write_bytes(b"")
    assert f"{out}: holds something, but no comparison; choose another folder" in refused(*arguments(model, out))
    assert "cannot be written" in refused(*arguments(model, out / "photo.png"))
    folder = tmp_path / "kept"
    given = arguments(shipped, folder, "p-ode-1", "2")
    cli(*given)
    file = folder / "runs" / "p-ode-1-2.json"
    whole = file.read_text()
    tampered = {
        "notes": 3,
        "spectrum": [1, 2],
        "metrics": {"frechet": "x"},
        "seconds": None,
        "conditioning": {"x": 1},
        "failure": [],
        "more": 1,
    }
    wrong = [json.dumps(json.loads(whole) | {name: value}) for name, value in tampered.items()]
    for damaged in (whole[:-20], "[]", "{}", whole.replace('"seconds": ', '"seconds": 1e999, "x": '), *wrong):
        file.write_text(damaged)
        assert "p-ode-1-2.json: cannot be read; choose another folder" in refused(*given)
    file.write_text(whole.replace('"basis": "cosine', '"basis": "pixel'))
    assert "holds samples drawn with basis = pixel" in refused(*given)
    file.write_text(whole)
    samples = folder / "runs" / "p-ode-1-2.npz"
    kept = samples.read_bytes()
    with np.load(samples) as arrays:
        np.savez(samples, **dict(arrays) | {"images": arrays["images"].astype(np.float64)})
    assert "p-ode-1-2.npz: cannot be read" in refused(*given)
    samples.write_bytes(kept[:-30])
    assert "p-ode-1-2.npz: cannot be read" in refused(*given)


@pytest.mark.usefixtures("figures")
def test_a_run_that_diverges_is_a_row(
    cli: Cli, model: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def function(denoiser: Denoiser, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return denoiser(x, sigma) * (torch.nan if 1 < sigma < 49 else 1)

    with_function(monkeypatch, function)
    code, printed, err = cli(*arguments(model, out, "ddim,dpmpp-2m", "2,4"), "--reference", data, "--metrics", "kernel")
    assert (code, err) == (0, "")
    runs = results(out)["runs"]
    assert [run["failure"] is None for run in runs] == [True, True, False, False]
    assert all("is not finite at step" in run["failure"] for run in runs[2:])
    assert runs[2]["metrics"] is None
    assert sorted(name for name in kept(out) if name.endswith("npz")) == ["ddim-2.npz", "dpmpp-2m-2.npz"]
    assert "note: failed: ddim with 4 calls, the output of the model is not finite at step" in printed
    page = page_of(out)
    assert ("button", "what went wrong") in page.texts
    assert len([text for tag, text in page.texts if tag == "td" and "is not finite" in text]) == 4  # pictures and table
    with open(out / "results.csv") as file:
        assert [bool(row["failure"]) for row in csv.DictReader(file)][:4] == [False, False, True, True]


def test_if_every_run_fails_so_does_the_command(
    refused: Refused, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_function(monkeypatch, lambda denoiser, x, sigma: denoiser(x, sigma) * torch.nan)
    message = refused(*arguments(model, out))
    assert "samplers: every run failed, the first because the output of the model is not finite at step" in message
    assert len(results(out)["runs"]) == 4  # and the report is there


def test_samplers_that_cannot_be_compared(refused: Refused, model: Path, shipped: str, out: Path) -> None:
    assert "sampler: unknown name 'ddin'; did you mean ddim" in refused(*arguments(model, out, "ddin"))
    assert "--samplers: ddim is named twice" in refused(*arguments(model, out, "ddim,ddim"))
    assert "--samplers: none given" in refused(*arguments(model, out, ","))
    assert "--calls: 4 is named twice" in refused(*arguments(model, out, "ddim", "4,4"))
    assert "--calls: none given" in refused(*arguments(model, out, "ddim", ","))
    for calls in ("4,x", "0", "-3", "2.5"):
        assert f"--calls: '{calls}' given; positive whole numbers with commas" in refused(
            "compare", model, "--samplers", "ddim", f"--calls={calls}", "--out", out
        )
    for name in ("ggf", "ode-rk45"):
        assert f"--calls: sampler '{name}' makes as many as its tolerance needs" in refused(
            *arguments(model, out, name)
        )
    for name, least in {"p-ode-3m": 3, "dpm-solver-2": 3, "pndm": 13}.items():
        message = refused(*arguments(shipped, out, name, f"{least - 1},{least}"))
        assert f"--calls: {least - 1} are too few for sampler '{name}'; it needs at least {least}" in message
    message = refused(*arguments(model, out, "pds", "4"))
    assert "comes without statistics of its data; measure them with `prescore calibrate" in message
    assert not out.exists()


def test_grids_and_the_automatic_sampler_are_those_of_sample(
    cli: Cli, model: Path, calibrated: Path, out: Path, tmp_path: Path
) -> None:
    chosen = ("--statistics", calibrated, "--seed", 3, "--n", N, "--float")
    asked = {
        "dpmpp-2m@karras": ("--sampler", "dpmpp-2m", "--grid", "karras"),
        "dpmpp-2m@auto": ("--sampler", "dpmpp-2m", "--grid", "auto", *chosen[:2]),
        "auto": ("--sampler", "auto", *chosen[:2]),
    }
    code, printed, err = cli(*arguments(model, out, ",".join(asked), "4"), *chosen[:2])
    assert (code, err) == (0, "")
    runs = {run["sampler"]: run for run in results(out)["runs"]}
    assert list(runs) == list(asked)
    for name, options in asked.items():
        file = tmp_path / f"{name}.npz"
        assert cli("sample", model, *options, "--calls", 4, *chosen[2:], "--out", file).code == 0
        with np.load(file) as own, np.load(out / "runs" / f"{name}-4.npz") as compared:
            assert (own["images"] == compared["images"]).all()
    taken = runs["auto"]["settings"]["sampler"]
    assert f"note: with 4 calls auto took {taken}@auto, because where the network knows most" in printed
    assert ("li", next(note for note in results(out)["notes"] if "auto took" in note)) in page_of(out).texts


def test_grids_that_do_not_fit(refused: Refused, model: Path, statistics: Path, out: Path) -> None:
    message = refused(*arguments(model, out, "ddim@karas"))
    assert "--samplers: 'ddim@karas' has unknown grid 'karas'; did you mean karras" in message
    assert "comes without statistics" in refused(*arguments(model, out, "ddim@auto"))
    assert "grid: auto needs what the steps" in refused(*arguments(model, out, "ddim@auto"), "--statistics", statistics)
    assert not out.exists()


def test_references_that_do_not_fit(refused: Refused, model: Path, data: Path, out: Path) -> None:
    def message(images: np.ndarray, *options: object) -> str:
        np.save(data, images)
        return refused(*arguments(model, out), "--reference", data, *options)

    assert "samples: images 1 x 8 x 8, those of the reference are 1 x 8 x 6; bring them to one size" in message(
        DATA[..., :6]
    )
    assert "data.npy: values from -1 to " in message(DATA / 127.5 - 1)
    assert "data.npy: 64 values are NaN or infinite" in message(
        np.where(np.arange(40)[:, None, None] == 3, np.nan, DATA / 255)
    )
    assert "recall: 3 images in the reference, 6 are needed; valid are frechet, kernel" in message(
        DATA[:3], "--metrics", "recall,frechet"
    )
    assert "inception-score: means-2x2 gives no logits of a classifier" in message(DATA, "--metrics", "inception-score")
    assert "--metrics: unknown value 'fid'" in message(DATA, "--metrics", "fid")
    assert "did you mean pixels" in message(DATA, "--features", "pixel")
    assert "no such file" in refused(*arguments(model, out), "--reference", data.parent / "none.npy")
    few = [*arguments(model, out), "--reference", data, "--n", 3, "--metrics", "kernel,coverage"]
    np.save(data, DATA)
    assert "coverage: 3 images in the samples, 6 are needed; valid are kernel, sliced-wasserstein" in refused(*few)
    assert not out.exists()


def test_fewer_samples_than_features(cli: Cli, model: Path, data: Path, out: Path) -> None:
    code, printed, _ = cli(*arguments(model, out, "ddim", "2"), "--reference", data, *PIXELS, "--metrics", "frechet")
    assert code == 0
    assert "note: frechet: 12 images for 64 features, fewer than a covariance needs" in printed
    assert "the other metrics are valid" in printed


def test_extractors_that_are_not_there(
    refused: Refused, model: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in {"inception": "torch_fidelity", "efficientnet-lite0": "efficientnet_lite_pytorch"}.items():
        monkeypatch.setitem(sys.modules, module, None)
        message = refused(*arguments(model, out), "--reference", data, "--features", name)
        assert f"{name}: {module} is needed" in message
        assert "pip install" in message
        assert "other extractors: mnist-classifier, means-2x2, pixels" in message
    assert not out.exists()


def test_options_that_do_nothing(refused: Refused, model: Path, statistics: Path, data: Path, out: Path) -> None:
    for option, *values in (
        ("--features", "pixels"),
        ("--metrics", "kernel"),
        ("--reference-n", 5),
        ("--reference-key", "a"),
        ("--pad", 32),
        ("--range", 0, 2),
    ):
        assert f"{option}: does nothing without --reference" in refused(*arguments(model, out), option, *values)
    message = refused(*arguments(model, out), "--reference", data, "--statistics", statistics)
    assert "--statistics: none of the samplers has a use for statistics" in message
    assert "--batch-size: 0 is not positive" in refused(*arguments(model, out), "--batch-size", 0)
    assert "n: 0 samples asked for" in refused(*arguments(model, out), "--n", 0)


def test_a_stored_reference(cli: Cli, refused: Refused, model: Path, data: Path, out: Path, tmp_path: Path) -> None:
    stored = tmp_path / "reference.safetensors"
    cli("evaluate", data, "--reference", data, "--features", "pixels", "--save-reference", stored)
    metrics = ("--metrics", "frechet,kernel,pixel-mean")
    assert cli(*arguments(model, out, "ddim", "2"), "--reference", stored, *metrics).code == 0
    images = [
        *arguments(model, tmp_path / "images", "ddim", "2"),
        "--reference",
        data,
        "--features",
        "pixels",
        *metrics,
    ]
    assert cli(*images).code == 0
    (run,), (same,) = (results(folder)["runs"] for folder in (out, tmp_path / "images"))
    assert run["metrics"] == pytest.approx(same["metrics"], rel=1e-9)
    assert results(out)["reference"]["floor"] is None
    assert "floor: left out, the reference is statistics, and true images are needed" in results(out)["notes"]
    given = [*arguments(model, tmp_path / "b"), "--reference", stored]
    assert "its features have name = pixels, those of the samples means-2x2" in refused(
        *given, "--features", "means-2x2"
    )
    assert f"--pad: {stored} holds statistics, and no images" in refused(*given, "--pad", 32)


def test_true_images_as_numbers(cli: Cli, model: Path, out: Path, tmp_path: Path) -> None:
    """Samples are rounded to bytes only where the true images are."""
    np.save(tmp_path / "a.npy", (DATA / 255 * 4 - 2).astype(np.float32))
    given = (
        "--reference",
        tmp_path / "a.npy",
        "--range",
        -2,
        2,
        "--features",
        "pixels",
        "--metrics",
        "kernel,pixel-mean",
    )
    assert cli(*arguments(model, out, "ddim", "2"), *given).code == 0
    (run,) = results(out)["runs"]
    with np.load(out / "runs" / "ddim-2.npz") as file:
        x = torch.from_numpy(file["images"][..., 0])[:, None].clamp(0, 1)
    features = make_features("pixels", (1, 8, 8))
    reference = measure(torch.from_numpy(DATA / 255).float()[:, None], features)
    expected = evaluate(measure(x, features), reference, ["kernel", "pixel-mean"])
    assert run["metrics"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("module", ["jinja2", "matplotlib.figure"])
def test_without_the_extra(
    refused: Refused, model: Path, out: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install '.[cli]' in the clone" in refused(*arguments(model, out))
    assert not out.exists()


@pytest.mark.usefixtures("figures")
def test_metrics_that_are_not_finite_are_missing(cli: Cli, model: Path, data: Path, out: Path) -> None:
    np.save(data, np.zeros_like(DATA))
    assert cli(*arguments(model, out, "ddim", "2"), "--reference", data, "--metrics", "spectrum,kernel").code == 0
    (run,) = results(out)["runs"]
    assert run["metrics"]["spectrum"] is None
    assert ("td", "–") in page_of(out).texts


def test_colours_stand_out_from_a_white_and_from_a_black_page() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for colour in COLOURS:
        for page in ("#ffffff", "#14171c"):
            low, high = sorted((luminance(colour), luminance(page)))
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, page)  # WCAG 2.1, 1.4.11


def test_the_order_of_rows() -> None:
    """The script of the page, as node runs it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    test = """
    const { order, sortRows, nextDirection } = require(process.argv[1]);
    const by = (values, descending) => sortRows(values, (value) => value, descending);
    console.log(JSON.stringify([
      by(["10", "9", "", "-1e-5", "0.5"], false), by(["10", "9", "", "-1e-5", "0.5"], true),
      by(["pc", "", "ddim", "p-ode-2m"], false), by(["pc", "", "ddim", "p-ode-2m"], true),
      sortRows([[1, "b"], [0, "a"], [1, "a"]], (row) => String(row[0]), false),
      sortRows([[1, "b"], [0, "a"], [1, "a"]], (row) => String(row[0]), true),
      [nextDirection("none", "descending"), nextDirection("ascending", "descending"),
       nextDirection("descending", "descending")],
      order("", "", true),
    ]));
    """
    command = [node, "-e", test, str(TEMPLATES / "report.js")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found == [
        ["-1e-5", "0.5", "9", "10", ""],
        ["10", "9", "0.5", "-1e-5", ""],
        ["ddim", "p-ode-2m", "pc", ""],
        ["pc", "p-ode-2m", "ddim", ""],
        [[0, "a"], [1, "b"], [1, "a"]],
        [[1, "b"], [1, "a"], [0, "a"]],
        ["descending", "descending", "ascending"],
        0,
    ]


def test_options_of_each_sampler(cli, shipped, tmp_path):
    out = tmp_path / "c"
    names = "pds[alpha=4,snr=0.075],pds[radial=0.2:1.6,no-pixel],edm-heun[alpha=0.5]@karras,pc"
    code, _, err = cli("compare", shipped, "--samplers", names, "--calls", 4, "--n", 2, "--out", out)
    assert code == 2  # a disc of its own leaves pixel nothing to do
    assert "pixel: does nothing beside" in err
    names = names.replace(",no-pixel", "")
    code, _, err = cli("compare", shipped, "--samplers", names, "--calls", 4, "--n", 2, "--out", out)
    assert code == 0, err
    runs = json.loads((out / "results.json").read_text())["runs"]
    settings = {run["sampler"]: run["settings"] for run in runs}
    assert list(settings) == ["pds[alpha=4,snr=0.075]", "pds[radial=0.2:1.6]", "edm-heun[alpha=0.5]@karras", "pc"]
    assert [settings["pds[alpha=4,snr=0.075]"][key] for key in ("alpha", "snr")] == [4.0, 0.075]
    assert settings["pds[radial=0.2:1.6]"]["radial"] == [0.2, 1.6]
    assert settings["edm-heun[alpha=0.5]@karras"]["alpha"] == 0.5


def test_starts_of_all_and_of_one(cli, refused, shipped, model, tmp_path):
    out = tmp_path / "c"
    words = ("--samplers", "p-ode-2m,p-ode-2m[start=noise],unipc", "--calls", 4, "--n", 2, "--out", out)
    assert cli("compare", shipped, *words, "--start", "gaussian").code == 0
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [run["settings"]["start"] for run in runs] == ["gaussian", "noise", "gaussian"]
    first, second = (np.load(out / "runs" / f"p-ode-2m{own}-4.npz")["images"] for own in ("", "[start=noise]"))
    assert not (first == second).all()
    assert "holds samples drawn with start = gaussian, now it is noise" in refused(
        "compare", shipped, *words, "--start", "noise"
    )
    assert "--start: unknown value 'nose'" in refused("compare", shipped, *words, "--start", "nose")
    assert "--start: tiny comes without statistics" in refused(
        "compare", model, "--samplers", "unipc", "--calls", 4, "--out", tmp_path / "d", "--start", "gaussian"
    )
    films = [tmp_path / f"{start}.png" for start in ("noise", "gaussian")]
    for film in films:
        traced = ("trace", shipped, "--samplers", "unipc", "--calls", 4, "--n", 1, "--start", film.stem)
        assert cli(*traced, "--out", film).code == 0
    assert films[0].read_bytes() != films[1].read_bytes()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("pds[alfa=4]", "has unknown option 'alfa=4'; did you mean alpha?"),
        ("pds[pixel=yes]", "pixel is a switch"),
        ("pds[alpha]", "alpha is a number or text"),
        ("pds[alpha=4", "'pds[alpha=4' cannot be read"),
        ("pds[snr=high]", "--snr: 'high' given; a number is needed"),
    ],
)
def test_options_that_no_sampler_has(names, message, refused, shipped, tmp_path):
    assert message in refused("compare", shipped, "--samplers", names, "--calls", 4, "--out", tmp_path / "c")


def test_the_verdict_names_the_nearest_by_the_most_telling_metric() -> None:
    """At each number of calls, with those that cannot be told from it; of one sampler it says nothing."""
    results = {
        ("a", 5): {"kernel": 0.1, "spectrum": 2.0},
        ("b", 5): {"kernel": 0.3, "spectrum": 1.0},
        ("a", 8): {"kernel": 0.2, "spectrum": 1.0},
        ("b", 8): {"kernel": None, "spectrum": 1.0},
        ("a", 12): {"kernel": 0.2, "spectrum": 1.0},
        ("b", 12): {"kernel": 0.1, "spectrum": 1.0},
    }
    errors = {"kernel": [0.01] * BLOCKS}
    runs = [
        (SimpleNamespace(name=name, allowed=calls), Result(metrics=metrics, deviations=errors))
        for (name, calls), metrics in results.items()
    ]
    figures = ReferenceFigures(floor={"kernel": 0.05}, floor_errors={"kernel": 0.011})
    report = Report("", {}, "", runs, figures, 20, range(4), {}, {})  # type: ignore[arg-type]
    assert report.verdict == (
        "Nearest to the data by kernel distance, where 20 true images have 0.050 ± 0.011: a with 5 calls; b with 12 "
        "calls."
    )
    alike = {"kernel": [0.01 * (-1) ** k for k in range(BLOCKS)]}
    unsure = [(run, replace(result, deviations=alike if run.name == "b" else errors)) for run, result in runs]
    told = replace(report, runs=unsure).verdict  # type: ignore[misc]
    assert ": a with 5 calls; none that can be told from the others with 12 calls." in told
    few = replace(report, n=9).verdict  # type: ignore[misc]
    assert few.endswith("With 9 samples nothing can be told from chance; take 1000.")
    alone = replace(report, runs=[pair for pair in runs if pair[0].name == "a"])  # type: ignore[misc]
    assert alone.verdict == ""
