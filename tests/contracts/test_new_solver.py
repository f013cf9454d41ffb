"""A solver that somebody adds: one class, by public names alone, and a row in the table."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import prescore
from prescore.cli import main
from prescore.errors import PrescoreError
from prescore.gaussian import Gaussian
from prescore.samplers import SAMPLERS, Entry, Sampler, sample
from prescore.samplers.table import options_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Relaxation(Sampler):
    """x <- D + (t / s)^power (x - D), with or without noise.

    Args:
        power: of the ratio of levels, positive.
        mode: "plain", or "noisy", which adds a tenth of the noise of the level.
        tone: size of that noise.

    Raises:
        PrescoreError: power is not positive.
    """

    power: float = 1.0
    mode: str = "plain"
    tone: float = 0.1

    family: ClassVar[str] = "toy"
    choices: ClassVar[Mapping[str, Sequence[str]]] = {"mode": ("plain", "noisy")}

    def __post_init__(self):
        super().__post_init__()
        if not self.power > 0:
            raise PrescoreError(f"power: {self.power} is not positive")

    @property
    def stochastic(self):
        return self.mode == "noisy"

    def unused(self, levels):
        return {} if self.stochastic else {"tone": "mode = plain"}

    def step(self, denoise, x, sigma, sigma_next, state, noise):
        x = torch.lerp(denoise(x, sigma), x, ((sigma_next / sigma) ** self.power).item())
        return (x + self.tone * sigma_next * noise() if self.stochastic else x), state


@pytest.fixture(autouse=True)
def added(monkeypatch):
    """The table with one row more."""
    rows = {**SAMPLERS, "relax": Entry(Relaxation, "relaxation towards D", "https://example.org/relax")}
    monkeypatch.setattr("prescore.samplers.table.SAMPLERS", rows)
    monkeypatch.setattr("prescore.samplers.SAMPLERS", rows)


MODEL = prescore.Denoiser(Gaussian.power_law((1, 8, 8)), (1, 8, 8), 0.01, 20.0, dtype=torch.float64)


def test_it_is_in_the_table_and_in_the_help(capsys):
    assert main(["samplers"]) == 0
    assert "  relax" in capsys.readouterr().out
    assert main(["samplers", "relax"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "relaxation towards D" in shown
    assert "--mode (plain, noisy; default: plain)" in shown
    assert "of the ratio of levels, positive" in shown


def test_it_is_planned_and_drawn_like_any_other():
    decided = prescore.plan(MODEL, sampler="relax", calls=6, grid="karras", power=1.5)
    assert (decided.calls, decided.settings["power"], decided.settings["mode"]) == (6, 1.5, "plain")
    x = decided.sample([1, 2, 3], progress=False)
    one_by_one = torch.cat([decided.sample([seed], progress=False) for seed in (1, 2, 3)])
    assert torch.equal(x, one_by_one)
    noisy = prescore.plan(MODEL, sampler="relax", steps=4, mode="noisy", tone=0.2)
    assert torch.equal(noisy.sample([5, 6], progress=False)[1:], noisy.sample([6], progress=False))


def test_its_mistakes_are_refused():
    for asked, message in {
        "tone": "tone: does nothing in sampler 'relax' with mode = plain",
        "speed": "speed: sampler 'relax' has no such option; known: power, mode, tone",
    }.items():
        with pytest.raises(PrescoreError, match=message):
            prescore.plan(MODEL, sampler="relax", steps=3, **{asked: 0.5})
    with pytest.raises(PrescoreError, match="mode: unknown value 'loud'"):
        prescore.plan(MODEL, sampler="relax", steps=3, mode="loud")


def test_the_command_line_takes_its_options(tmp_path, capsys):
    out = tmp_path / "a.npz"
    words = ["sample", "mnist-ve", "--sampler", "relax", "--steps", "2", "--n", "1", "--out", str(out)]
    assert main([*words, "--power", "2", "--mode", "noisy", "--tone", "0.3"]) == 0
    assert out.exists()
    capsys.readouterr()
    assert main([*words, "--tone", "0.3"]) == 2
    assert "--tone: does nothing in sampler 'relax' with mode = plain" in capsys.readouterr().err
    assert main([*words, "--power", "fast"]) == 2
    assert "--power: 'fast' given; a number is needed" in capsys.readouterr().err


def test_a_class_without_the_decorator_is_refused():
    class Forgotten(Sampler):
        pull: float = 1.0
        family: ClassVar[str] = "toy"

    with pytest.raises(TypeError, match=r"Forgotten: pull would be lost; decorate the class by @dataclass"):
        Forgotten(steps=3)


def test_the_solver_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    scope = {"dataclass": dataclass, "Sampler": Sampler, "ClassVar": ClassVar, "__name__": __name__}
    exec(block, scope)
    plain = sample(MODEL, Relaxation(steps=5), seeds=[1], progress=False)
    shown = sample(MODEL, scope["Relaxation"](steps=5), seeds=[1], progress=False)
    torch.testing.assert_close(shown, plain)
    assert options_of(Entry(scope["Relaxation"], "", ""))["share"].help == "of the way, inside (0, 1]."
