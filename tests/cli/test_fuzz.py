"""Some of the hostile input that `make fuzz` tries in quantity; docs/reliability.md has its counts."""

from pathlib import Path

import fuzz
import pytest

KINDS = {
    *("command lines: sample", "command lines: train", "damaged: data", "damaged: models", "damaged: results"),
    *("killed: sample", "killed: train", "misbehaving models"),
}


@pytest.mark.filterwarnings("ignore")
def test_hostile_input_ends_in_one_line(model: Path, statistics: Path) -> None:
    tally = fuzz.run(model, statistics, rounds=6, seed=1)
    assert tally.failures == []
    assert tally.tried.keys() >= KINDS
