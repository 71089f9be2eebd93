"""Memory that runs out: the caller's to mend, whichever library it is that notices."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from dsmseg.errors import InputError

# torch raises RuntimeError: on the CPU it has no kind of its own, and on a GPU there are several.
_MARKS = ("defaultcpuallocator", "out of memory", "bad_alloc", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether ``error`` means that memory ran out, be it the machine's or the GPU's."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(mark in text for mark in _MARKS)


@contextmanager
def telling_memory() -> Iterator[None]:
    """Turn memory that runs out inside of the block into one line.

    Raises:
        InputError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # They hold what filled the memory, and other scans may follow.
        raise InputError(
            "memory ran out for this scan",
            mend="Close other programs, give a smaller part of the scan, or use a machine with more memory.",
        ) from error
