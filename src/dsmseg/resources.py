"""What this process may use of the machine: cores and memory."""

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MODEST_MEMORY = 8 << 30  # assumed where a system does not tell
_OWN_FILE, _FREE_FILE = Path("/proc/self/statm"), Path("/proc/meminfo")
_CGROUP_FILE, _CGROUP_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
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


def available_memory() -> int | None:
    """Give the bytes that this process may hold in all: what it holds, and what it can get within all limits.

    None where a system does not tell.
    """
    try:
        import resource

        mapped, held = (int(pages) * os.sysconf("SC_PAGE_SIZE") for pages in _OWN_FILE.read_text().split()[:2])
        free = _numbers(_FREE_FILE)["MemAvailable:"] << 10
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError, ValueError, LookupError):
        return None
    # Of what is mapped all counts, be it used or not; threads map some more.
    mappable = [] if limit == resource.RLIM_INFINITY else [max(0, limit - mapped - _MAPPED_BY_THREADS) + held]
    containers = [most - max(0, used - held) for most, used in _containers()]
    return max(0, min([memory(), free + held, *mappable, *containers]))


def _containers() -> Iterator[tuple[int, int]]:
    """Give limit and use of each container (cgroup, version 2) around this process; caches that can go are no use."""
    try:
        inside = next(line[3:] for line in _CGROUP_FILE.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    folder = _CGROUP_ROOT / inside.strip().lstrip("/")
    while folder.is_relative_to(_CGROUP_ROOT):
        with suppress(OSError, ValueError, LookupError):  # no limit, or none that can be seen from here
            limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            yield limit, used - _numbers(folder / "memory.stat")["inactive_file"]
        folder = folder.parent


def _numbers(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text().splitlines()}


def peak_memory() -> int:
    """Give the bytes that this process has taken at most: of the GPU where one is used, else resident memory."""
    import resource

    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
