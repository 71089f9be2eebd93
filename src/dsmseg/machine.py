"""What runs here, and what a scan would ask of it."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from dsmseg import __version__, checkpoint, resources
from dsmseg.inference.memory import Need
from dsmseg.inference.windows import DEFAULT_OVERLAP, most_windows
from dsmseg.volume import read_scan, resampled_grid

_LIBRARIES = ("torch", "numpy", "scipy", "nibabel", "SimpleITK", "safetensors")


def describe_machine() -> dict[str, Any]:
    """Return versions, cores, memory, the device that `auto` takes and the packaged weights, as JSON holds them."""
    return {
        "dsmseg": __version__,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "cores": resources.cores(),
        "memory_gb": round(resources.memory() / 1e9, 1),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "weights": checkpoint.packaged(),
    }


def describe_scan(path: Path, weights: str = "starter") -> dict[str, Any]:
    """Return the grid, orientation and HU of a scan, and roughly what `predict` with ``weights`` would need for it.

    Raises:
        InputError: the scan cannot be read.
        WeightsError: the weights are missing or damaged.
    """
    volume = read_scan(path)
    loaded = checkpoint.load(weights)
    card = loaded.card
    low, middle, high = np.percentile(volume.array, (1, 50, 99)).tolist()
    size_mm = [count * step for count, step in zip(volume.own.shape, volume.own.spacing, strict=True)]
    working = resampled_grid(volume.grid, card.spacing_mm).shape
    need = Need.of_weights(card, loaded.state.values())
    memory, left = need.of(volume.own), resources.available_memory()
    here = {} if left is None else {"memory_here_gb": round(left / 1e9, 1)}
    if left is not None and memory > left:
        here["axial_slices_that_fit"] = need.slices_that_fit(volume.own, left)
    return {
        "scan": str(path),
        "shape": list(volume.own.shape),
        "spacing_mm": [round(float(step), 4) for step in volume.own.spacing],
        "size_mm": [round(float(size), 1) for size in size_mm],
        "orientation": _letters(volume.own.affine),
        "hu": {
            "min": float(volume.array.min()),
            "percentile_1": low,
            "median": middle,
            "percentile_99": high,
            "max": float(volume.array.max()),
        },
        "predict": {
            "weights": card.name,
            "grid_at_its_spacing": list(working),
            "windows_at_most": most_windows(working, card.window, DEFAULT_OVERLAP),
            "memory_gb": round(memory / 1e9, 1),
            **here,
        },
    }


def _letters(affine: NDArray[np.float64]) -> str:
    """Where each axis of a file runs to, such as "LPS"."""
    axes = io_orientation(affine)
    return "".join(("RAS" if flip > 0 else "LPI")[int(axis)] for axis, flip in axes)
