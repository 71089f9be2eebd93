"""How every kernel for the processor is compiled."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(*signature: str, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile with numba, without holding the interpreter, and keep the machine code on disk.

    That happens on the first call, or at once for a ``signature`` that is given. Where no folder can be written to, it
    is compiled again in each process.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            kept: Callable[..., Any] = njit(*signature, nogil=True, cache=True, **options)(function)
        except RuntimeError:
            kept = njit(*signature, nogil=True, **options)(function)
        return kept

    return decorate
