"""Keep what native libraries write on the error stream away from the caller's one line."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STANDARD_ERROR = 2
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def quiet_native_code() -> Iterator[None]:
    """Send the process's standard error to nowhere while ITK, GDCM and the JPEG libraries read.

    They print straight to the file descriptor, so that neither their own switches nor `sys.stderr` reach it. Errors
    still come as exceptions. One block runs at a time: two at once would restore each other's redirection.
    """
    with _ONE_AT_A_TIME:
        try:
            kept = os.dup(_STANDARD_ERROR)
        except OSError:  # no error stream at all, as in a windowed program
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, _STANDARD_ERROR)
            yield
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            os.close(kept)
            os.close(nowhere)
