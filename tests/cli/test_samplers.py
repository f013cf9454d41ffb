"""`prescore samplers` lists every sampler, and only options that do something."""

import re
from collections.abc import Callable
from typing import Any

from prescore.samplers import SAMPLERS


def test_every_sampler_has_a_line_and_its_options(cli: Callable[..., Any]) -> None:
    code, out, err = cli("samplers")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for name, entry in SAMPLERS.items():
        row, options = (line for line in lines if line.split() and line.split()[0] == name)
        assert entry.source in row
        assert entry.about in row
        assert "--alpha" in options
    assert re.search(r"^pc +predictor-corrector +1 +yes +2 +predictor-corrector +https", out, re.MULTILINE)
    assert re.search(r"^probability-flow +predictor-corrector +1 +no +1 ", out, re.MULTILINE)


def test_a_predictor_alone_lists_no_corrector(cli: Callable[..., Any]) -> None:
    options = [line for line in cli("samplers").out.splitlines() if line.startswith("ancestral")][1]
    assert "--form" in options
    assert "--snr" not in options
    assert "--corrector-steps" not in options
