"""What the benchmarks share: calls timed in turns, and the memory that a call takes."""

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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


def nnunet_plans(spacing: Sequence[float], patch: Sequence[int], hu_window: tuple[float, float]) -> dict[str, Any]:
    """Give nnU-Net's plans as its planner writes them for CT, but with our spacing, and HU scaled to [0, 1] as ours."""
    low, high = hu_window
    scaling = {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
    configuration: dict[str, Any] = {"spacing": list(spacing), "patch_size": list(patch), "architecture": {}}
    configuration |= {"normalization_schemes": ["CTNormalization"], "use_mask_for_norm": [False]}
    for what, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        options = {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        configuration[f"resampling_fn_{what}"] = "resample_data_or_seg_to_shape"
        configuration[f"resampling_fn_{what}_kwargs"] = options
    return {
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": scaling},
        "configurations": {"3d_fullres": configuration},
    }


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
