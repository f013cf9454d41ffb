"""Which axis of an array is which, as letters: N counts the samples, C their channels, all others are places in them.

NHWC and NCHW are pictures, NHW grey ones, NC vectors, NCL and NLC signals, NL those of one channel, NCDHW fields.
Events are (C, *places), with C = 1 where there is no such letter; that of vectors is (C,).
"""

from collections.abc import Sequence

from prescore.errors import PrescoreError

PICTURES = "NHWC"
BY_AXES = {1: "NC", 2: "NCL", 3: PICTURES, 4: "NCDHW"}  # how samples are stored, by the axes of an event
FEW = 4  # channels of what is taken for pictures or fields without being told


def check_layout(layout: object) -> str:
    """The letters in capitals. Raises PrescoreError unless they are a layout."""
    letters = layout.upper() if isinstance(layout, str) else ""
    is_row = letters.isascii() and letters.isalpha() and len(set(letters)) == len(letters)
    if not is_row or letters[0] != "N" or len(letters) < 2:
        raise PrescoreError(f"layout: {layout!r} given; one letter for each axis is needed, such as NHWC, NCL or NC")
    return letters


def stored_layout(event_shape: Sequence[int]) -> str:
    """That of samples as they are written to a file: pictures with their channels last, others first."""
    axes = len(event_shape)
    return BY_AXES.get(axes) or "NC" + "ABDEFGH"[: axes - 1]


def guessed_layout(name: str, shape: Sequence[int], is_bytes: bool) -> str:
    """That of an array of which nothing is said.

    Vectors have two axes. Three are grey pictures: bytes of any size, and other numbers if the longer side is at most
    FEW times the other. Of more axes either the second or the last counts at most FEW channels.

    Raises:
        PrescoreError: the shape does not tell.
    """
    axes = len(shape)
    if axes == 2:
        return "NC"
    if axes == 3:
        short, long = sorted(shape[1:])
        if shape[-1] > FEW and (is_bytes or (short > FEW and long <= FEW * short)):
            return "NHW"
    first, last = ("NCHW", "NHWC") if axes == 4 else ("NCDHW", "NDHWC")
    for counts in ((1, 3), (1, 2, 3, 4)) if axes in (4, 5) else ():
        is_first, is_last = shape[1] in counts, shape[-1] in counts
        if is_first != is_last:
            return first if is_first else last
    raise PrescoreError(
        f"{name}: shape {tuple(shape)} does not say which axis is which; name them (layout, on the command line "
        "--layout), such as NHW or NHWC for pictures, NCL for signals, NCDHW for fields"
    )


def channel_axis(name: str, shape: Sequence[int], layout: str) -> int | None:
    """Which axis holds the channels; None if there is none. Raises PrescoreError if the axes are more or fewer."""
    if len(shape) != len(layout):
        raise PrescoreError(
            f"{name}: shape {tuple(shape)} has {len(shape)} axes, the layout {layout} has {len(layout)}"
        )
    return layout.index("C") if "C" in layout else None
