"""Some of the hostile input that `make fuzz` tries in quantity; docs/reliability.md says what it is."""

from pathlib import Path

import fuzz
import pytest


@pytest.mark.filterwarnings("ignore")
def test_hostile_input_ends_in_one_line(model: Path, statistics: Path) -> None:
    tally = fuzz.run(model, statistics, rounds=4, seed=1, patience=2, kills=0)
    assert tally.failures == []
    kinds = {kind.partition(":")[0] for kind in tally.tried}
    assert kinds == {"command lines", "damaged", "misbehaving models"}
    assert sum(tally.tried.values()) == 4 * (2 * fuzz.LINES + fuzz.MODELS)
