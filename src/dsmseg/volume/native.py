"""What native libraries need around them: a name they survive, and an error stream that they may fill."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dsmseg.errors import InputError

_STANDARD_ERROR = 2
_ONE_AT_A_TIME = threading.RLock()


def native_name(path: Path) -> str:
    """Return a path as the text that ITK takes. It ends the whole process at one that is not valid text.

    Raises:
        InputError: the path cannot be written in UTF-8.
    """
    name = str(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError as error:
        readable = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise InputError("its name is not valid text", where=readable, mend="Rename it.") from error
    return name


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
