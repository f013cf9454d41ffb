"""What is refused before memory is taken for it: numbers that nobody means, and sizes that no memory holds."""

from prescore.errors import PrescoreError

MOST_LEVELS = 10**6  # noise levels of a grid, and network calls that are asked for
MOST_SAMPLES = 10**7  # samples of a run
ALLOCATOR = "DefaultCPUAllocator"  # what torch names where there is no more memory on a CPU


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no more memory, on whatever device."""
    return isinstance(error, MemoryError) or "OutOfMemoryError" in type(error).__name__ or ALLOCATOR in str(error)


def check_count(name: str, value: int, most: int) -> None:
    """Raise PrescoreError if a number that was given as `name` is above `most`."""
    if value > most:
        raise PrescoreError(f"{name}: {min(value, 10**30)} given; at most {most} are possible")


def check_size(name: str, count: int, each: int) -> None:
    """Raise PrescoreError if `count` things, given as `name`, of `each` bytes are more than this machine's memory."""
    from prescore.data.guards import gibibytes, memory

    if count * each > (most := memory()):
        raise PrescoreError(
            f"{name}: {min(count, 10**30)} take {gibibytes(count * each)} of memory, this machine has "
            f"{gibibytes(most)}; take fewer"
        )
