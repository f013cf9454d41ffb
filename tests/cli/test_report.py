import pytest

from prescore.cli.report import calls_text, facts, table


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 call"), ("1", "1 call"), (11, "11 calls"), ("6, 10", "6, 10 calls")]
)
def test_calls_text_knows_one(count: int | str, text: str) -> None:
    assert calls_text(count) == text


def test_calls_text_names_whose_calls() -> None:
    assert calls_text(1, "network ") == "1 network call"


def test_what_a_terminal_would_act_on_is_spelled() -> None:
    for text in (facts({"name": "\x1b[31mred"}), table(["name"], [["\x1b[31mred"]]), facts({"a": ["\x1b[31mred"]})):
        assert "\x1b" not in text
        assert "\\x1b[31mred" in text


def test_the_verdict_names_the_nearest_by_the_most_telling_metric(report: Report) -> None:
    """Of two runs with equally many calls; with few samples it says that they are few."""
    (run, result), *_ = report.runs
    others = [
        (replace(run, name=name), replace(result, metrics={"kernel": kernel, "spectrum": spectrum}))
        for name, kernel, spectrum in (("near", 0.1, 2.0), ("far", 0.3, 1.0))
    ]
    found = replace(report, runs=others, n=20).verdict
    assert found.startswith("Nearest to the data by kernel distance")
    assert f"near with {run.allowed} call" in found
    assert found.endswith("With 20 samples small differences are chance; take 1000.")
    assert replace(report, runs=others[:1]).verdict == ""
