"""Tables of plain text."""

from collections.abc import Mapping, Sequence

from prescore.errors import printable


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned, those of numbers, some of which may be missing (""), to the right; floats to four digits.

    >>> print(table(["name", "calls", "error"], [["pc", 20, 0.51234], ["pds", 100, 2.0]]))
    name  calls   error
    pc       20  0.5123
    pds     100       2
    """
    cells = [list(header), *([show(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    kinds = [{type(value) for value in column if value != ""} for column in zip(*rows, strict=True)]
    is_number = [bool(found) and found <= {int, float} for found in kinds]
    lines = [
        "  ".join(f"{cell:>{width}}" if right else f"{cell:<{width}}" for cell, width, right in columns)
        for columns in (zip(row, widths, is_number, strict=True) for row in cells)
    ]
    return "\n".join(line.rstrip() for line in lines)


def facts(values: Mapping[str, object]) -> str:
    """One line a name, its value beside it.

    >>> print(facts({"alpha": 5.0, "event shape": (1, 32, 32)}))
    alpha        5
    event shape  1 x 32 x 32
    """
    width = max(map(len, values))
    return "\n".join(f"{name:<{width}}  {show(value)}" for name, value in values.items())


def show(value: object) -> str:
    """A value as a reader wants it, in one line that a terminal takes as text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return " x ".join(map(show, value))
    if isinstance(value, list):
        return ", ".join(map(show, value))
    return "default" if value is None else printable(str(value))


def calls_text(count: int | str, network: str = "") -> str:
    """A number of calls in words: 1 call, 2 calls; 6, 10 calls."""
    return f"{count} {network}call{'' if str(count) == '1' else 's'}"
