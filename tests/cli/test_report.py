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
