import pytest

from prescore.cli.report import calls_text


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 call"), ("1", "1 call"), (11, "11 calls"), ("6, 10", "6, 10 calls")]
)
def test_calls_text_knows_one(count: int | str, text: str) -> None:
    assert calls_text(count) == text


def test_calls_text_names_whose_calls() -> None:
    assert calls_text(1, "network ") == "1 network call"
