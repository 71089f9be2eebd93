"""Ctrl-C and the scheduler's SIGTERM: a run ends its step, saves and says how to go on."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from dsmseg.errors import DsmsegError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(DsmsegError):
    """A run that was asked to stop, and has saved."""


class Interruption:
    """Notes that the run was asked to stop; a second time stops at once. Use it as a context manager."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Take the signals, in the main thread (no other can)."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
