"""What the benchmarks share: calls timed in turns, and the memory that a call takes."""

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

Step = Callable[[], object]

_PEAK = Path("/proc/self/clear_refs")


def in_turns(steps: Sequence[Step], runs: int) -> list[float]:
    """Give the median seconds of each, after one untimed round (which compiles)."""
    for step in steps:
        step()
    turns = [[seconds(step) for step in steps] for _ in range(runs)]
    return [statistics.median(taken) for taken in zip(*turns, strict=True)]


def seconds(step: Step) -> float:
    """Give the seconds of one call, what a GPU has still to do included."""
    _synchronize()
    started = time.perf_counter()
    step()
    _synchronize()
    return time.perf_counter() - started


def peak_memory(step: Step) -> int | None:
    """Give the MB that one call takes beyond what is there, its results included.

    On a GPU that was used, what PyTorch's allocator counts; else the peak of resident memory (Linux with glibc), or
    None where the system does not tell.
    """
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return round((torch.cuda.max_memory_allocated() - before) / 1e6)
    if not _PEAK.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)  # what earlier calls left is not to be used again unseen
    _PEAK.write_text("5")  # the peak starts again at what is resident now
    before = _status("VmRSS")
    step()
    return round((_status("VmHWM") - before) / 1000)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
