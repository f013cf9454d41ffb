"""Hostile input, in quantity: command lines, damaged files, kills, misbehaving models. `make fuzz` runs it for minutes.

Whatever is given, a command ends with exit code 0, 2 or 130, says at most one line on stderr when it fails, leaves no
half-written file, and takes no more than MEMORY; what was killed goes on to what an uninterrupted run makes, bit for
bit; a model that returns something else than it should is refused. `run` counts what was tried and collects what broke
one of these.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import formats
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import prescore
from prescore.cli import main
from prescore.cli.app import app
from prescore.cli.options import recipe_options
from prescore.denoiser import Denoiser, expand
from prescore.errors import PrescoreError
from prescore.samplers import SAMPLERS, find_sampler
from prescore.samplers.table import options_of

PATIENCE = 10  # seconds after which Ctrl-C ends a command that was asked for much
SECONDS = 30  # that one command may take, or Ctrl-C may need
MEMORY = 2 * 2**30  # bytes that the process may grow by
UNFITTED = sorted(SAMPLERS.keys() - {"p-fit"})  # which the statistics are without weights for
LINES, MODELS, KILLS = 6, 4, 2  # of each kind in a round
HOSTILE = (
    *("", " ", "0", "-1", "1", "2", "3", "1.5", "1e9", "1000000000", "99999999999999999999", "nan", "inf", "-inf"),
    *("1e-300", "1e300", "1.0000000000000002", "x", "none", "auto", "1,2", ",", ",,", "0,0", "1:2", "64x", "x64", "é"),
    *("a" * 300, "\x1b[31mred", "\udcff", "../nowhere", ".", "/dev/null", "/proc/self/mem", "🦄", "0x10", "1_000", "-"),
)


class Text(str):
    """A piece of JSON as it stands."""


NUMBERS = [0, 1, -1, 2, 0.5, 1e-300, 1e308, 28, 65_536, 2**31, 2**64, 10**9, 10**400]
TEXTS = ["", "x", "\x1b[31mred", "a\nb", "\u202eevil", "\ud800", "x" * 10_000, "NCSN", "UNet2DModel", "score-labels"]
TEXTS += ["noise", "learned", "identity", "DDIMScheduler"]
OTHERS = [None, True, [], {}, [1], [[1]], {"kind": "vp"}, {"a": 1}, [0] * 100, [1.0] * 3000, [4, 4]]
PIECES = ["NaN", "Infinity", "-Infinity", "1e999", "9" * 1000, "9" * 5000, "[" * 500 + "]" * 500, "[" * 50_000]
ODD = [*NUMBERS, *TEXTS, *OTHERS, *map(Text, [*PIECES, '{"a": 1, "a": 2}'])]


@dataclass
class Tally:
    """What was tried, by kind, and what failed."""

    tried: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def count(self, kind: str, problem: str | None) -> None:
        self.tried[kind] = self.tried.get(kind, 0) + 1
        if problem:
            self.failures.append(f"{kind}: {problem}")


class TookTooLong(BaseException):
    """Raised by the alarm, past every handler of exceptions."""


@contextlib.contextmanager
def limited(patience: float | None = None) -> Iterator[None]:
    """SECONDS, and MEMORY beyond what the process has; Ctrl-C after so many seconds of patience, if there is any."""

    def late(*_: object) -> None:
        nonlocal patience
        if patience is None:
            raise TookTooLong
        patience = None
        signal.alarm(SECONDS)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGALRM, late)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    signal.setitimer(signal.ITIMER_REAL, patience or SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def problem_of(
    words: list[str], folder: Path, patience: float | None = None, codes: tuple[int, ...] = (0, 2, 130)
) -> str | None:
    """What a command line does that it must not, in words; run in `folder`."""
    out, err, here = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with limited(patience), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except TookTooLong:
        return f"{words}: more than {SECONDS} s"
    except BaseException:
        return f"{words}: {traceback.format_exc(limit=-3)}"
    finally:
        os.chdir(here)
    if parts := [p for p in folder.rglob("*") if p.name.endswith(".part")]:
        return f"{words}: left {parts}"
    if "\x1b" in out.getvalue() and "--help" not in words:
        return f"{words}: printed {out.getvalue()!r}"
    return _misbehaviour(words, code, err.getvalue(), codes)


def do(words: list[str], folder: Path) -> None:
    """A command that has to work."""
    if problem := problem_of(words, folder, codes=(0,)):
        raise RuntimeError(problem)


def _misbehaviour(words: list[str], code: int, err: str, codes: tuple[int, ...]) -> str | None:
    lines = err.splitlines()
    said = [line for line in lines if line.startswith("prescore: error:")]
    # Notes, and what training says of a checkpoint that it could not take.
    others = [line for line in lines if line not in said and not line.startswith("prescore: ")]
    if code not in codes:
        return f"{words}: exit code {code}, said {err!r}"
    if others or len(said) > 1 or (code == 2 and not said):
        return f"{words}: said {err!r}"
    if any(len(line) > 1030 or "\x1b" in line for line in lines):
        return f"{words}: a line that is too long or has control characters, {lines!r}"
    return None


def command_lines(base: dict[str, list[str]], seed: int) -> Iterator[tuple[str, list[str]]]:
    """(command, words) without end: what is right, with one to three options changed.

    Args:
        base: words that make each command work, by its name.
    """
    import typer

    rng = random.Random(seed)
    commands: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    while True:
        name = rng.choice(sorted(base))
        words = [name, *base[name]]
        flags = [flag for p in commands[name].params for flag in p.opts if flag.startswith("--")]
        if name == "sample":
            sampler = rng.choice(sorted(SAMPLERS))
            words += ["--sampler", sampler]
            flags += [option.flag for option in options_of(find_sampler(sampler)).values()] * 2
        if name == "train":
            recipe = rng.choice(["edm", "ve", "vp", "ncsn", "ncsnv2", "vae"])
            words += ["--recipe", recipe]
            flags += [option.flag for option in recipe_options(recipe).values()] * 2
        flags = [flag for flag in flags if flag not in ("--compile", "--help", "--device", "--tensorboard")]
        for _ in range(rng.randint(1, 3)):
            flag = rng.choice([*flags, rng.choice(HOSTILE)])
            words += rng.choice([[flag, rng.choice(HOSTILE)], [f"{flag}={rng.choice(HOSTILE)}"], [flag]])
        if rng.random() < 0.1:
            words[rng.randrange(1, len(words))] = rng.choice(HOSTILE)
        yield name, words


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content truncated, or with a few bytes changed, mostly near its ends, where the structure is."""
    if not content or rng.random() < 0.25:
        return content[: rng.randrange(max(1, len(content)))]
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5])):
        near = min(len(changed), rng.choice([300, 5000, len(changed)]))
        place = rng.choice([rng.randrange(near), len(changed) - 1 - rng.randrange(near)])
        changed[place] = rng.choice([changed[place] ^ 1 << rng.randrange(8), rng.randrange(256), 0, 255])
    return bytes(changed)


def mutated(value: Any, rng: random.Random, odd: list[Any]) -> Any:
    """A copy with something inside replaced, taken away or added."""
    value = copy.copy(value)
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        match rng.randrange(10):
            case 0:
                del value[name]
            case 1:
                value[rng.choice(["items", "\x1b[31m", "x" * 300, "", "module.a"])] = rng.choice(odd)
            case _:
                value[name] = mutated(value[name], rng, odd)
        return value
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        value[place] = mutated(value[place], rng, odd)
        return value
    return rng.choice(odd)


def to_json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {to_json(member)}" for name, member in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    return str(value) if isinstance(value, Text) else json.dumps(value)


def damage(file: Path, rng: random.Random) -> None:
    """Bytes of a file, or of the JSON in it: in the header of safetensors, in a zip of arrays, or all of it."""
    content = file.read_bytes()
    if rng.random() < 0.5:
        if file.suffix == ".json":
            content = to_json(mutated(json.loads(content), rng, ODD)).encode()
        elif content[8:9] == b"{":
            size = int.from_bytes(content[:8], "little")
            header = json.loads(content[8 : 8 + size])
            facts = header.get("__metadata__", {})
            name = rng.choice(sorted(facts) or [""])
            try:
                facts[name] = to_json(mutated(json.loads(facts[name]), rng, ODD))
            except (KeyError, ValueError):
                facts[name] = rng.choice(TEXTS)
            header["__metadata__"] = facts
            if rng.random() < 0.3:
                header = mutated(header, rng, ODD)
            text = to_json(header).encode()
            content = len(text).to_bytes(8, "little") + text + content[8 + size :]
        elif file.suffix == ".npz":
            with zipfile.ZipFile(file) as arrays:
                members = {name: arrays.read(name) for name in arrays.namelist()}
            name = rng.choice(sorted(members))
            members[name] = damaged(members[name], rng)
            with zipfile.ZipFile(file, "w") as arrays:
                for name, member in members.items():
                    arrays.writestr(name, member)
            return
        else:
            content = damaged(content, rng)
    else:
        content = damaged(content, rng)
    file.write_bytes(content)


def shrink(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A model that does as it should."""
    return x / (1 + expand(sigma, x) ** 2)


def wrong(kind: str) -> Callable[..., Any]:
    """A model that returns something else than it should, or deals otherwise with what it is given."""
    buffer = torch.empty(0)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        nonlocal buffer
        y = shrink(x, sigma)
        if kind == "late nan":
            return torch.full_like(y, float("nan")) if sigma.min() < 1 else y
        if kind == "writes":
            x.zero_()
            sigma.fill_(3)
            return y
        if kind == "one buffer":
            buffer = y if buffer.shape != y.shape else buffer.copy_(y)
            return buffer
        if kind == "its input":
            return x.copy_(y)
        return {
            "nan": lambda: y * float("nan"),
            "infinite": lambda: y / 0,
            "none": lambda: None,
            "tuple": lambda: (y, y),
            "list": lambda: y.tolist(),
            "array": lambda: y.numpy(),
            "number": lambda: 1.0,
            "integers": lambda: y.long(),
            "booleans": lambda: y > 0,
            "complex": lambda: y.to(torch.complex64),
            "meta": lambda: y.to("meta"),
            "sparse": lambda: y.to_sparse(),
            "nested": lambda: torch.nested.as_nested_tensor(list(y)),
            "quantised": lambda: torch.quantize_per_tensor(y.float(), 0.1, 0, torch.qint8),
            "scalar": lambda: y.sum(),
            "batchless": lambda: y[0],
            "transposed": lambda: y.mT[..., :-1],
            "raises": lambda: 1 / 0,
            "assertion": lambda: (_ for _ in ()).throw(AssertionError()),
        }[kind]()

    return model


RIGHT = ("writes", "one buffer", "its input")
WRONG = (
    *("nan", "infinite", "none", "tuple", "list", "array", "number", "integers", "booleans", "complex", "meta"),
    *("sparse", "nested", "quantised", "scalar", "batchless", "transposed", "raises", "assertion", "late nan"),
)
EVENT, NOISE = (1, 4, 6), (0.1, 20.0)


def measured() -> prescore.Statistics:
    """Statistics of some data and of `shrink`, for the samplers that need them."""
    data = torch.rand(20, *EVENT, generator=torch.Generator().manual_seed(0)).cumsum(-1) / EVENT[-1]
    return prescore.calibrate(data, model=Denoiser(shrink, EVENT, *NOISE), levels=6, trajectories=2, tries=0)


def model_problem(kind: str, name: str, statistics: prescore.Statistics, rng: random.Random) -> str | None:
    """Whether a sampler takes what a misbehaving model returns, or is led astray by what it does beside."""
    how: dict[str, Any] = {"dtype": rng.choice([torch.float32, torch.float64]), "statistics": statistics}
    steps, own = rng.randint(5, 8), {"ZeroDivisionError", "AssertionError"} if kind in ("raises", "assertion") else ()

    def drawn(function: Callable[..., Any]) -> torch.Tensor:
        model = Denoiser(function, EVENT, *NOISE, **how)
        return prescore.plan(model, sampler=name, steps=steps).sample([1, 2], progress=False)

    try:
        with limited():
            x = drawn(wrong(kind))
            if kind in RIGHT:
                return None if torch.equal(x, drawn(shrink)) else f"{kind} with {name}: other samples"
    except TookTooLong:
        return f"{kind} with {name}: more than {SECONDS} s"
    except PrescoreError as error:
        return None if str(error).isprintable() and kind not in RIGHT else f"{kind} with {name}: {error}"
    except Exception as error:
        return None if type(error).__name__ in own else f"{kind} with {name}: {traceback.format_exc(limit=-3)}"
    return f"{kind} with {name}: taken, {type(x).__name__} {x.dtype}"


TINY = ("--batch-size", "4", "--model-channels", "8")
QUICK = ("--levels", "6", "--trajectories", "2", "--tries", "0")
QUIET = ("--no-tensorboard", "--no-progress")
BASE = {
    "sample": [
        "model.safetensors",
        "--statistics",
        "statistics.safetensors",
        "--steps",
        "4",
        "--n",
        "2",
        "--out",
        "a.npz",
    ],
    "calibrate": ["data.npz", "--key", "images", "--out", "s", "--n", "6"],
    "evaluate": ["data.npz", "--key", "images", "--reference", "data.npy", "--features", "pixels"],
    "compare": ["model.safetensors", "--samplers", "ddim", "--calls", "3", "--n", "2", "--out", "c"],
    "info": ["statistics.safetensors"],
    "convert": ["model.safetensors", "--out", "m"],
    "samplers": [],
    "recipes": [],
    "train": ["data.npz", "--key", "images", "--out", "r", *QUIET, "--steps", "2", *TINY],
}
GOES_ON = {  # commands that go on with what a folder holds, and what they had to make there
    "samples": [
        "sample",
        "model.safetensors",
        "--sampler",
        "edm-stochastic",
        "--steps",
        "12",
        "--n",
        "6",
        "--batch-size",
        "2",
    ],
    "run": ["train", "data.npz", "--key", "images", *QUIET, "--steps", "12", "--checkpoint-every", "3", *TINY],
    "comparison": ["compare", "model.safetensors", "--samplers", "ddim,edm-heun", "--calls", "9", "--n", "4"],
}
MAKES = {  # commands that make a file at once
    "statistics": ["calibrate", "data.npz", "--key", "images", "--n", "9"],
    "converted": ["convert", "model.safetensors"],
    "reference": ["evaluate", "data.npz", "--key", "images", "--reference", "data.npy", "--features", "pixels"],
    "array.npz": [
        "sample",
        "model.safetensors",
        "--sampler",
        "edm-stochastic",
        "--steps",
        "12",
        "--n",
        "6",
        "--batch-size",
        "2",
    ],
}


def making(name: str) -> list[str]:
    """The words of a command of `GOES_ON` or `MAKES` that writes into NAME."""
    words = {**GOES_ON, **MAKES}[name]
    return [*words, "--save-reference" if name == "reference" else "--out", name]


def materials(
    folder: Path, model: Path, statistics: Path, patch: pytest.MonkeyPatch
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Small data and models of every kind in a folder, and what commands make of them.

    Returns:
        for each file the words of a command that reads it; how long each of `GOES_ON` and `MAKES` took.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(12) % 3)
    np.save(folder / "data.npy", images)
    (folder / "data-idx3-ubyte").write_bytes(
        bytes([0, 0, 8, 3, 0, 0, 0, 12, 0, 0, 0, 8, 0, 0, 0, 8]) + images.tobytes()
    )
    (folder / "pictures").mkdir()
    for k, suffix in enumerate(("png", "png", "jpg", "tif", "bmp", "gif", "webp")):
        Image.fromarray(images[k]).save(folder / "pictures" / f"{k}.{suffix}")
    shutil.make_archive(str(folder / "data"), "zip", folder / "pictures")
    shutil.copy(model, folder / "model.safetensors")
    shutil.copy(statistics, folder / "statistics.safetensors")
    read = {f"pictures/{file.name}": ["calibrate", "pictures"] for file in (folder / "pictures").iterdir()}
    read |= {f"data{end}": ["calibrate", f"data{end}"] for end in (".npz", ".npy", ".zip", "-idx3-ubyte")}
    read["data.npz"] += ["--key", "images"]
    read = {file: [*words, "--out", "s2"] for file, words in read.items()}
    read["model.safetensors"] = ["sample", "model.safetensors", "--steps", "2", "--n", "1", "--out", "b.npz"]
    drawn = ["sample", "model.safetensors", "--sampler", "p-ode-2m", "--calls", "2", "--n", "1", "--out", "b.npz"]
    read["statistics.safetensors"] = [*drawn, "--statistics", "statistics.safetensors"]
    read["measured"] = ["info", "measured"]
    shutil.copy(statistics, folder / "measured")
    for kind in formats.KINDS:
        (folder / kind).mkdir()
        path, options = formats.write(kind, folder / kind, patch)
        words = ["info", str(path.relative_to(folder)), *(f"--{name}={value}" for name, value in options.items())]
        read |= {str(file.relative_to(folder)): words for file in formats.files_of(path)}
    seconds = {}
    for name in (*GOES_ON, *MAKES):
        start = time.monotonic()
        do(making(name), folder)
        seconds[name] = time.monotonic() - start
    read["reference"] = ["evaluate", "data.npz", "--key", "images", "--reference", "reference"]
    for name in GOES_ON:
        for file in (folder / name).rglob("*"):
            if file.suffix in (".json", ".npz", ".csv") or file.name.startswith("checkpoint"):
                read[str(file.relative_to(folder))] = making(name)
    return read, seconds


def contents(path: Path) -> dict[str, Any]:
    """What a command made, without the times that it took."""
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.is_file())
        older = [f for f in files if f.name.startswith("checkpoint-")][:-1]  # where an interrupted run stood is one
        return {str(f.relative_to(path)): contents(f) for f in files if f not in older}
    if path.suffix == ".html":
        return {}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays}
    content = path.read_bytes()
    if content[8:9] == b"{":
        return {name: value.numpy().tobytes() for name, value in load_file(path).items()}
    if path.suffix == ".csv":
        return {"": path.name == "loss.csv" and content}
    if path.suffix == ".json":
        return {"": _without_times(json.loads(content))}
    return {"": content}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_times(member) for name, member in value.items() if "second" not in name}
    return [_without_times(member) for member in value] if isinstance(value, list) else value


def killed(words: list[str], folder: Path, number: int, after: float) -> str | None:
    """What a command does that it must not, in words, when it gets this signal after so many seconds."""
    sys.stdout.flush()
    with open(folder / "stderr", "w+") as err:
        process = os.fork()
        if process == 0:
            os.chdir(folder)
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)
            os.dup2(err.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = 99
            try:
                with open(1, "w", closefd=False) as sys.stdout, open(2, "w", closefd=False) as sys.stderr:
                    try:
                        code = main(words)
                    except BaseException:
                        traceback.print_exc()
            finally:
                os._exit(code)
        time.sleep(after)
        os.kill(process, number)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        err.seek(0)
        said = err.read()
    (folder / "stderr").unlink()
    expected = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    # Before or after the command has the signal in its hands, the system's own answer.
    if code not in (0, expected, -number) or "Traceback" in said:
        return f"{words}: signal {number} after {after:.3f} s: exit code {code}, said {said!r}"
    return None


def kill_problem(name: str, folder: Path, whole: Path, seconds: float, rng: random.Random) -> str | None:
    """Whether a command that is killed up to three times, and then left alone, makes what it does uninterrupted."""
    words = making(name)
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    target.unlink(missing_ok=True)
    moments = []
    for _ in range(rng.randint(1, 3)):
        moments.append((rng.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]), rng.uniform(0, 1.1 * seconds)))
        if problem := killed(words, folder, *moments[-1]):
            return problem
    if problem := problem_of(words, folder, codes=(0,)):
        return f"after {moments}: {problem}"
    ours, theirs = contents(target), contents(whole)
    if ours == theirs:
        return None
    other = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    return f"{words}: after {moments} {other} differ"


def run(
    model: Path,
    statistics: Path,
    *,
    rounds: int = sys.maxsize,
    seed: int = 0,
    seconds: float = float("inf"),
    patience: float = PATIENCE,
    kills: int = KILLS,
) -> Tally:
    """So many rounds of all kinds, or until the time is over.

    Args:
        model, statistics: small files that are good.
        patience: seconds after which Ctrl-C ends a command line.
        kills: of each round, at moments that no seed decides.
    """
    tally, rng, end = Tally(), random.Random(seed), time.monotonic() + seconds
    known = measured()
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        template, folder = Path(temporary, "template"), Path(temporary, "folder")
        template.mkdir()
        read, took = materials(template, model, statistics, patch)
        for count in range(rounds):
            if time.monotonic() > end:
                break
            shutil.copytree(template, folder)
            for name, words in islice(command_lines(BASE, seed + count), LINES):
                tally.count(f"command lines: {name}", problem_of(words, folder, patience))
            for file in rng.sample(sorted(read), LINES):
                shutil.rmtree(folder)
                shutil.copytree(template, folder)
                damage(folder / file, rng)
                tally.count(f"damaged: {group(file)}", problem_of(read[file], folder))
            shutil.rmtree(folder)
            shutil.copytree(template, folder)
            for name in rng.choices(sorted(took), k=kills):
                problem = kill_problem(name, folder, template / name, took[name], rng)
                tally.count(f"killed: {making(name)[0]}", problem)
            shutil.rmtree(folder)
            for _ in range(MODELS):
                kind, name = rng.choice([*WRONG, *RIGHT]), rng.choice(UNFITTED)
                tally.count("misbehaving models", model_problem(kind, name, known, rng))
    return tally


def group(file: str) -> str:
    """What kind of file it is, for the tally."""
    first = file.partition("/")[0]
    if first in ("model.safetensors", *formats.KINDS):
        return "models"
    if first.startswith(("data", "pictures")):
        return "data"
    return {
        "statistics.safetensors": "statistics",
        "measured": "statistics",
        "reference": "references",
        "run": "checkpoints",
    }.get(first, "results")


def small(folder: Path) -> tuple[Path, Path]:
    """A small model and statistics, as the commands make them."""
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images)
    for words in (
        ["train", "data.npz", "--out", "run", *QUIET, "--steps", "2", *TINY],
        [
            "calibrate",
            "data.npz",
            "--out",
            "statistics",
            "--model",
            "run/model.safetensors",
            *QUICK,
            "--components",
            "5",
        ],
    ):
        do(words, folder)
    return folder / "run" / "model.safetensors", folder / "statistics"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hostile input, in quantity; prints what was tried, and what failed")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of torch, about the tensors that the models return
    with tempfile.TemporaryDirectory() as temporary:
        found = run(*small(Path(temporary)), seed=given.seed, seconds=60 * given.minutes)
    for kind, number in sorted(found.tried.items()):
        print(f"| {kind} | {number} |")
    print(f"| failures | {len(found.failures)} |")
    print("\n".join(found.failures), file=sys.stderr)
    sys.exit(bool(found.failures))
