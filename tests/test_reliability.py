"""docs/reliability.md names tests that are there."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE.read_text())))


def test_tests_are_named() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_is_there(file: str, name: str) -> None:
    assert f"\ndef {name}(" in (Path(__file__).parent / file).read_text()


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "::" in line]
    promises = PAGE.read_text().split("## Promises")[1].split("\n## ")[0]
    assert len(rows) == sum(line.startswith("| ") for line in promises.splitlines()) - 1  # the head
