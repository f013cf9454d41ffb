import pickle

import pytest

from prescore.errors import LONGEST, PrescoreError, SamplingError, check_interval, printable, suggest


@pytest.mark.parametrize("kind", [PrescoreError, SamplingError])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the weight 'a' is missing", "the weight 'a' is missing"),
        ("café, 2 ± 1, 雪", "café, 2 ± 1, 雪"),
        ("one\n   two\r\nthree", "one two three"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("a\tb\x00c\x7fd\x9be", r"a\tb\x00c\x7fd\x9be"),
        ("undecodable \udcff", r"undecodable \udcff"),
    ],
)
def test_a_message_is_one_line_that_a_terminal_takes_as_text(kind, text, shown):
    error = kind(text)
    assert str(error) == shown
    assert str(pickle.loads(pickle.dumps(error))) == shown
    assert str(kind(error)) == shown
    str(error).encode()


def test_a_message_is_of_moderate_length():
    error = str(PrescoreError("file.pth: " + "x" * 10**6 + " is missing"))
    assert len(error) <= LONGEST
    assert error.startswith("file.pth: xxx")
    assert error.endswith("xxx is missing")
    assert printable("x" * LONGEST) == str(PrescoreError("x" * LONGEST))


def test_long_white_space_takes_no_time():
    assert printable(" " * 10**6 + "a" + " " * 10**6 + "\n" * 10**6 + "b") == "a b"


def test_near_names_are_suggested():
    assert suggest("nscn", ["ncsn", "edm"]) == "did you mean ncsn?"
    assert suggest("x" * 10**6, ["ncsn", "edm"]) == "known: ncsn, edm"


def test_intervals_are_of_a_width_that_can_be_squared():
    check_interval("data_range", [1.0, 1.0 + 2**-52])  # narrow, but a number can hold its square
    for interval in [(0, 1e-300), (-1e200, 1e200)]:
        with pytest.raises(PrescoreError, match=r"data_range: .* given; a width from 1e-100 to 1e\+100 is needed"):
            check_interval("data_range", interval)
