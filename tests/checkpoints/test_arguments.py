import json

import pytest

from prescore.checkpoints.arguments import MAX_DEPTH, MAX_DIGITS, MAX_JSON_BYTES, is_number, is_of, parse_json, shorten
from prescore.errors import PrescoreError


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
        (b'{"low": -Infinity}', {"low": float("-inf")}),
        (nested(MAX_DEPTH), json.loads(nested(MAX_DEPTH))),
        ("9" * MAX_DIGITS, int("9" * MAX_DIGITS)),
    ],
    ids=["plain", "infinite", "deep", "long"],
)
def test_json_is_read_as_it_is(text, value):
    assert parse_json(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        (b"\xff\xfe\x00", "it is not JSON"),
        (nested(MAX_DEPTH + 1), "it is nested too deep"),
        ("[" * 100_000, "it is nested too deep"),
        ('{"a":' * 100_000, "it is nested too deep"),
        ("9" * (MAX_DIGITS + 1), "it holds a number of 301 digits, 999999..."),
        ("-" + "9" * 5000, "it holds a number of 5001 digits"),
        ('{"b": {"a": 1, "c": 3, "a": 2}}', "the name 'a' is given twice"),
        ('{"\\u001b[31m": 1, "\\u001b[31m": 2}', r"the name '\x1b[31m' is given twice"),
        ("[" + " " * MAX_JSON_BYTES + "]", f"it is larger than {MAX_JSON_BYTES} bytes"),
    ],
    ids=range(11),
)
def test_json_that_is_refused(text, message):
    with pytest.raises(PrescoreError) as caught:
        parse_json(text)
    assert str(caught.value).startswith(message)


def test_a_name_that_is_given_twice_among_many():
    names = [f'"{k}": 1' for k in range(100_000)]
    with pytest.raises(PrescoreError, match="the name '99999' is given twice"):
        parse_json("{" + ", ".join([*names, names[-1]]) + "}")


def test_wrong_values_are_shown_in_short():
    assert shorten("a\n\x1b[31m") == r"'a\n\x1b[31m'"
    assert shorten([[1]]) == "[[1]]"
    assert shorten(10**9) == "1000000000"
    laughs: tuple = (1,)
    for _ in range(100):
        laughs = (laughs, laughs)
    endless: list = []
    endless.append(endless)
    for value in ("x" * 10**6, 10**1000, 16**100_000, -(16**100_000), laughs, endless, [0] * 10**6, {0: "x" * 1000}):
        assert 3 < len(shorten(value)) < 70
    assert shorten(16**100_000) == "a whole number of 400001 bits"


def test_numbers_that_are_none():
    for value in (float("nan"), float("inf"), 10**400, True, "1", None, 1j):
        assert not is_number(value)
        assert not is_of(value, float)
