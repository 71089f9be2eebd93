"""What this process may use of the machine: cores and memory."""

import os
import sys
from pathlib import Path

_MODEST_MEMORY = 8 << 30  # assumed where a system does not tell
_OWN_FILE, _FREE_FILE = Path("/proc/self/statm"), Path("/proc/meminfo")
_MAPPED_BY_THREADS = 256 << 20
_LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def cores() -> int:
    """Count the cores that this process may use, which a container can hold below what the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Give the bytes of the machine's memory, or of its container's, free or not."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        total = _MODEST_MEMORY
    for path in _LIMIT_FILES:
        try:
            total = min(total, int(path.read_text()))
        except (OSError, ValueError):  # no limit, or no such file on this system
            continue
    return total


def available_memory() -> int:
    """Give the bytes that this process may hold in all: what it holds, and what it can get within all limits.

    Where a system does not tell what is free, that is all of the machine's memory.
    """
    total = memory()
    try:
        import resource

        pages = [int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in _OWN_FILE.read_text().split()[:2]]
        lines = dict(line.split(":", 1) for line in _FREE_FILE.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) << 10
    except (ImportError, OSError, ValueError, LookupError):
        return total
    mapped, held = pages
    total = min(total, free + held)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    # What is mapped counts there, be it used or not; threads map some more.
    return total if limit == resource.RLIM_INFINITY else min(total, max(0, limit - mapped - _MAPPED_BY_THREADS) + held)


def peak_memory() -> int:
    """Give the bytes that this process has taken at most: of the GPU where one is used, else resident memory."""
    import resource

    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
