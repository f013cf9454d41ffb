"""`prescore samplers` lists every sampler, and only options that do something."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from prescore.cli.samplers import WIDTH
from prescore.samplers import SAMPLERS
from prescore.samplers.table import options_of


def test_every_sampler_has_a_line_below_its_family(cli: Callable[..., Any]) -> None:
    code, out, err = cli("samplers")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    for name, entry in SAMPLERS.items():
        (row,) = (line for line in lines if line.startswith("  ") and line.split()[0] == name)
        assert entry.source.removeprefix("https://") in row
        assert entry.about in row
        above = [line for line in lines[: lines.index(row)] if not line.startswith(" ")]
        assert above[-1] == entry.cls.family
    assert re.search(r"^  pc +1 +1 +2 +- +predictor-corrector +arxiv", out, re.MULTILINE)
    assert re.search(r"^  pds +1 +1 +2 +preconditioner +", out, re.MULTILINE)
    assert re.search(r"^  probability-flow +1 +- +1 +- ", out, re.MULTILINE)


def test_the_table_fits_a_screen(cli: Callable[..., Any]) -> None:
    assert max(map(len, cli("samplers").out.splitlines())) <= 140


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_option_is_explained(cli: Callable[..., Any], name: str) -> None:
    code, out, err = cli("samplers", name)
    assert (code, err) == (0, "")
    assert SAMPLERS[name].source in out
    options = options_of(SAMPLERS[name]).values()
    flags = re.findall(r"^  (--\S+?)(?:, --no-\S+)?\s+\(", out, re.MULTILINE)
    assert flags == [option.flag for option in options]
    assert ("--alpha, --pixel" in out) == SAMPLERS[name].takes("preconditioner")
    assert ("--basis" in out) == SAMPLERS[name].takes("reference")
    assert ("\n  --statistics\n" in out) == SAMPLERS[name].takes("statistics")
    assert all(option.help for option in options), [option.name for option in options if not option.help]
    assert max(map(len, out.splitlines())) <= WIDTH


def test_a_predictor_alone_has_no_corrector(cli: Callable[..., Any]) -> None:
    out = cli("samplers", "ancestral").out
    assert "--form" in out
    assert "--snr" not in out
    assert "--corrector-steps" not in out


def test_what_is_said_of_an_option(cli: Callable[..., Any]) -> None:
    out = cli("samplers", "pc").out
    assert re.search(r"^order +1 weak, 1 strong$", out, re.MULTILINE)
    assert "  --snr  (a number; default: 0.16)\n      r in the corrector's step size" in out
    assert "  --precondition-prior, --no-precondition-prior  (yes or no)\n" in out
    assert "--step-size  (a number, or none)\n" in cli("samplers", "ald").out
    assert "--prior  (uniform, gaussian; default: uniform)\n" in cli("samplers", "ald").out
    assert "--predictor  (reverse-diffusion, ancestral, euler-maruyama, probability-flow, none; default:" in out


def test_what_a_name_changes_of_an_option_is_said(cli: Callable[..., Any]) -> None:
    assert "--weights  (exact, published; default: published)\n" in cli("samplers", "dpmpp-2m").out
    assert "--weights  (exact, published; default: exact)\n" in cli("samplers", "dpmpp-3m").out
    assert "--prediction  (noise, data, edm; default: noise)\n" in cli("samplers", "seeds-1").out
    assert "--prediction" not in cli("samplers", "p-seeds-1").out


def test_unknown_names_get_the_near_ones(refused: Callable[..., str]) -> None:
    assert "unknown name 'ancestrl'; did you mean ancestral?" in refused("samplers", "ancestrl")
