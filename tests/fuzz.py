"""Hostile input, in quantity: command lines, damaged files, misbehaving models. `make fuzz` runs it for minutes.

Whatever is given, a command ends with exit code 0, 2 or 130, says at most one line on stderr when it fails, leaves no
half-written file, and takes no more than MEMORY. `run` counts what was tried and collects what broke one of these.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import prescore
from prescore.cli import main
from prescore.cli.app import app
from prescore.cli.options import options_of
from prescore.denoiser import Denoiser, expand
from prescore.errors import PrescoreError
from prescore.samplers import SAMPLERS, find_sampler

SECONDS = 30  # that one command may take
MEMORY = 2 * 2**30  # bytes that the process may grow by
LINES, MODELS = 6, 4  # of each kind in a round
HOSTILE = (
    *("", " ", "0", "-1", "1", "2", "3", "1.5", "1e9", "1000000000", "99999999999999999999", "nan", "inf", "-inf"),
    *("1e-300", "1e300", "1.0000000000000002", "x", "none", "auto", "1,2", ",", ",,", "0,0", "1:2", "64x", "x64", "é"),
    *("a" * 300, "\x1b[31mred", "\udcff", "../nowhere", ".", "/dev/null", "/proc/self/mem", "🦄", "0x10", "1_000", "-"),
)


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
def limited() -> Iterator[None]:
    """SECONDS, and MEMORY beyond what the process has."""

    def late(*_: object) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, late)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)


def problem_of(words: list[str], folder: Path) -> str | None:
    """What a command line does that it must not, in words; run in `folder`."""
    out, err, here = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with limited(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
    except TookTooLong:
        return f"{words}: more than {SECONDS} s"
    except BaseException:
        return f"{words}: {traceback.format_exc(limit=-3)}"
    finally:
        os.chdir(here)
    said = [line for line in err.getvalue().splitlines() if line.startswith("prescore: error:")]
    if code not in (0, 2, 130):
        return f"{words}: exit code {code}"
    if code and (len(said) != 1 or len(err.getvalue().splitlines()) != len([*said, *_notes(err.getvalue())])):
        return f"{words}: said {err.getvalue()!r}"
    if any(len(line) > 1000 or "\x1b" in line for line in said):
        return f"{words}: a line that is too long or has control characters, {said!r}"
    if parts := [p for p in folder.rglob("*") if p.name.endswith(".part")]:
        return f"{words}: left {parts}"
    return None


def _notes(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("prescore: note:")]


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
        flags = [flag for flag in flags if flag not in ("--compile", "--help", "--device", "--tensorboard")]
        for _ in range(rng.randint(1, 3)):
            flag = rng.choice([*flags, rng.choice(HOSTILE)])
            words += rng.choice([[flag, rng.choice(HOSTILE)], [f"{flag}={rng.choice(HOSTILE)}"], [flag]])
        if rng.random() < 0.05:
            words[rng.randrange(1, len(words)) :] = [rng.choice(HOSTILE)]
        yield name, [word for word in words if "\0" not in word]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The same with some bytes flipped, cut out, or cut off."""
    kind, at = rng.randrange(4), rng.randrange(max(1, len(content)))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[at + rng.randint(1, 64) :]
    flipped = bytearray(content)
    span = len(flipped) if kind == 2 else min(400, len(flipped))  # headers more often
    for _ in range(rng.randint(1, 8)):
        flipped[rng.randrange(span)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def wrong(kind: str) -> Callable[..., Any]:
    """A model that returns something else than it should."""

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        y = x / (1 + expand(sigma, x) ** 2)
        if kind == "late nan":
            return torch.full_like(y, float("nan")) if sigma.min() < 1 else y
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
            "scalar": lambda: y.sum(),
            "batchless": lambda: y[0],
            "transposed": lambda: y.mT[..., :-1],
            "raises": lambda: 1 / 0,
            "assertion": lambda: (_ for _ in ()).throw(AssertionError()),
        }[kind]()

    return model


WRONG = (
    *("nan", "infinite", "none", "tuple", "list", "array", "number", "integers", "booleans", "complex", "meta"),
    *("sparse", "scalar", "batchless", "transposed", "raises", "assertion", "late nan"),
)


def model_problem(kind: str, name: str, rng: random.Random) -> str | None:
    """Whether a sampler takes what a misbehaving model returns."""
    model = Denoiser(wrong(kind), (1, 4, 6), 0.1, 20.0, dtype=rng.choice([torch.float32, torch.float64]))
    own = {"ZeroDivisionError", "AssertionError"} if kind in ("raises", "assertion") else set()
    try:
        with limited():
            x = prescore.plan(model, sampler=name, steps=rng.randint(5, 8)).sample([1, 2], progress=False)
    except TookTooLong:
        return f"{kind} with {name}: more than {SECONDS} s"
    except PrescoreError as error:
        return None if "\n" not in str(error) else f"{kind} with {name}: {error}"
    except Exception as error:
        return None if type(error).__name__ in own else f"{kind} with {name}: {traceback.format_exc(limit=-3)}"
    return f"{kind} with {name}: taken, {type(x).__name__} {x.dtype}"


def materials(folder: Path, model: Path, statistics: Path) -> dict[str, list[str]]:
    """Small data and models in a folder, and the words that make each command work on them."""
    rng = np.random.default_rng(0)
    np.savez(folder / "data.npz", images=rng.integers(0, 256, (12, 8, 8), dtype=np.uint8))
    (folder / "model.safetensors").write_bytes(model.read_bytes())
    (folder / "statistics.safetensors").write_bytes(statistics.read_bytes())
    tiny = ["--steps", "2", "--batch-size", "4", "--model-channels", "8", "--channel-mult", "1", "--num-blocks", "1"]
    return {
        "sample": ["model.safetensors", "--steps", "4", "--n", "2", "--out", "a.npz"],
        "calibrate": ["data.npz", "--out", "s", "--n", "6"],
        "evaluate": ["data.npz", "--reference", "data.npz", "--features", "pixels"],
        "compare": ["model.safetensors", "--samplers", "ddim", "--calls", "3", "--n", "2", "--out", "c"],
        "info": ["statistics.safetensors"],
        "convert": ["model.safetensors", "--out", "m"],
        "samplers": [],
        "recipes": [],
        "train": ["data.npz", "--out", "r", "--no-tensorboard", "--no-progress", *tiny],
    }


def run(model: Path, statistics: Path, rounds: int, seed: int, seconds: float = float("inf")) -> Tally:
    """So many rounds of all kinds, or until the time is over.

    Args:
        model, statistics: small files that are good.
    """
    tally, rng, end = Tally(), random.Random(seed), time.monotonic() + seconds
    fixed = [name for name in SAMPLERS if not SAMPLERS[name].needs]
    damage = {
        "data.npz": ["calibrate", "data.npz", "--out", "s2"],
        "model.safetensors": ["sample", "model.safetensors", "--steps", "2", "--n", "1", "--out", "b.npz"],
        "statistics.safetensors": ["info", "statistics.safetensors"],
    }
    for count in range(rounds):
        if time.monotonic() > end:
            break
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            base = materials(folder, model, statistics)
            for name, words in islice(command_lines(base, seed + count), LINES):
                tally.count(f"prescore {name}", problem_of(words, folder))
            materials(folder, model, statistics)
            for file, words in damage.items():
                (folder / file).write_bytes(damaged((folder / file).read_bytes(), rng))
                tally.count(f"damaged {file}", problem_of(words, folder))
        for _ in range(MODELS):
            tally.count("misbehaving model", model_problem(rng.choice(WRONG), rng.choice(fixed), rng))
    return tally


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hostile input, in quantity; prints what was tried, and what failed")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    own = Path(prescore.__file__).parent / "assets" / "mnist-ve.safetensors"
    known = own.with_suffix(".statistics.safetensors")
    found = run(own, known, sys.maxsize, given.seed, 60 * given.minutes)
    for kind, number in sorted(found.tried.items()):
        print(f"| {kind} | {number} |")
    print(f"| failures | {len(found.failures)} |")
    print("\n".join(found.failures), file=sys.stderr)
    sys.exit(bool(found.failures))
