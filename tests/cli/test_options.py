"""Options of samplers are read from fields and docstrings, and words become their values."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch

from prescore.cli.options import named_sampler, take
from prescore.errors import PrescoreError
from prescore.options import argument_docs
from prescore.samplers import Entry, Sampler
from prescore.samplers.table import options_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Toy(Sampler):
    """A sampler of every kind of option.

    Args:
        count: how many,
            and more of it.
        low, high: two ends.
        table: cannot be written as a word.

    Raises:
        PrescoreError: never: not even now.
    """

    count: int = 3
    low: float = 0.5
    high: float | None = None
    S_noise: float | str = 1.0
    is_last: bool = True
    is_first: bool | None = None
    points: tuple[float, ...] = (0.25, 0.5)
    pair: tuple[int, int] | None = None
    kind: str = "a"
    rule: Literal["x", "y"] = "x"
    table: torch.Tensor | None = None

    family: ClassVar[str] = "toy"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"kind": ("a", "b")}


OPTIONS = options_of(Entry(Toy, "a toy", "https://example.org"))


def test_every_field_that_a_word_can_give_is_an_option() -> None:
    expected = ["count", "low", "high", "S_noise", "is_last", "is_first", "points", "pair", "kind", "rule"]
    assert list(OPTIONS) == expected
    assert OPTIONS["S_noise"].flags == ("--s-noise",)
    assert OPTIONS["is_last"].flags == ("--is-last", "--no-is-last")


def test_what_a_name_fixes_or_idles_is_no_option() -> None:
    entry = Entry(Toy, "a toy", "https://example.org", {"count": 1}, idle=("low",))
    assert list(options_of(entry)) == list(OPTIONS)[2:]


def test_the_docstring_explains_them() -> None:
    docs = argument_docs(Toy)
    assert docs["count"] == "how many, and more of it."
    assert docs["low"] == docs["high"] == "two ends."
    assert docs["steps"].startswith("number T of steps")  # of the base class
    assert "PrescoreError" not in docs


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [
        ("count", "-4", -4),
        ("low", "1e-3", 1e-3),
        ("high", "2", 2.0),
        ("high", "none", None),
        ("S_noise", "1.5", 1.5),
        ("S_noise", "auto", "auto"),
        ("points", "0.1,0.9,1", (0.1, 0.9, 1.0)),
        ("points", "0.1", (0.1,)),
        ("pair", "1,2", (1, 2)),
        ("pair", "None", None),
        ("kind", "none", "none"),
        ("rule", "y", "y"),
    ],
)
def test_words_become_values(name: str, word: str, expected: object) -> None:
    value = OPTIONS[name].parse(word)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "word", "message"),
    [
        ("count", "1.5", "--count: '1.5' given; a whole number is needed"),
        ("low", "none", "--low: 'none' given; a number is needed"),
        ("high", "x", "--high: 'x' given; a number, or none is needed"),
        ("points", "1,,2", "--points: '1,,2' given; numbers with commas is needed"),
        ("pair", "1,2,3", "--pair: '1,2,3' given"),
    ],
)
def test_words_that_are_no_values(name: str, word: str, message: str) -> None:
    with pytest.raises(PrescoreError, match=message):
        OPTIONS[name].parse(word)


def test_what_a_value_may_be() -> None:
    assert OPTIONS["kind"].value == "a, b"
    assert OPTIONS["rule"].value == "x, y"
    assert OPTIONS["S_noise"].value == "a number or text"
    assert OPTIONS["pair"].value == "numbers with commas, or none"
    assert OPTIONS["is_first"].value == "yes or no"


def test_options_are_taken_from_among_other_words() -> None:
    words = ["model", "--count=2", "--out", "a", "--no-is-last", "--low", "-1", "--is-first", "--", "--high", "3"]
    given, left = take(OPTIONS, words)
    assert given == {"count": 2, "is_last": False, "low": -1.0, "is_first": True}
    assert left == ["model", "--out", "a", "--", "--high", "3"]


def test_the_sampler_that_words_name() -> None:
    assert named_sampler(["m", "--sampler", "ald", "--snr", "3"]) == "ald"
    assert named_sampler(["--sampler=ald", "--sampler", "pds"]) == "pds"
    assert named_sampler(["m", "--sampler"]) == named_sampler([]) == "auto"
