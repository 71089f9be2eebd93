"""What is checked before a tumor is put in, and the phase of contrast of a scan that does not tell it."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.synthesis.anatomy import PHASES
from dsmseg.synthesis.tumors.grid import Box
from dsmseg.synthesis.tumors.kinds import Growth, host_intensities

Image = Float32[NDArray[np.float32], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]

_SAMPLE = 50_000  # voxels of a host or of a scan are enough for a median
_FEWEST = 4  # voxels of the smallest tumor's host
_SOFT = (20.0, 130.0)  # HU of muscles and organs
_ENHANCED = 50.0  # HU of their median that contrast alone reaches


def check_grid(image: Image, spacing: Sequence[float], masks: dict[str, Mask | None]) -> None:
    """Check that all arrays share one grid of three axes.

    Raises:
        InputError: they do not, or the spacing is not three positive numbers.
    """
    if image.ndim != 3:
        raise InputError(f"the image has {image.ndim} axes", mend="Give an array (x, y, z) of HU.")
    if len(spacing) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise InputError(f"the spacing is {list(spacing)}", mend="Give three positive numbers, in mm.")
    for name, mask in masks.items():
        if mask is None:
            continue
        if mask.shape != image.shape:
            what = f"the {name} mask has shape {mask.shape}, the image {image.shape}"
            raise InputError(what, mend="Give both on the same grid.")
        if mask.dtype != np.bool_:
            mend = "Give a boolean mask, such as labels == 5."
            raise InputError(f"the {name} mask holds {mask.dtype}, not booleans", mend=mend)


def check_wishes(phase: str | None, diameter_mm: float | None) -> None:
    """Check what the caller may ask for.

    Raises:
        InputError: the phase is unknown, or the diameter is not a positive number.
    """
    if phase is not None and phase not in PHASES:
        raise InputError(f"no phase is called {phase!r}", mend=f"Phases are {', '.join(PHASES)}.")
    if diameter_mm is not None and not (math.isfinite(diameter_mm) and diameter_mm > 0):
        raise InputError(f"the diameter is {diameter_mm} mm", mend="Give a positive number of mm.")


def check_room(host: Mask, box: Box | None, growth: Growth, spacing: Sequence[float]) -> Box:
    """Check that a host can hold the smallest of what may grow, and give the host's bounding ``box``.

    Raises:
        InputError: it is empty or too small.
    """
    hosts = " or ".join(growth.hosts)
    if box is None:
        raise InputError(f"the host mask is empty: no room for a {growth.name}", mend=f"Give the mask of the {hosts}.")
    smallest = min(one.diameter[2] for one in growth.variants)
    volume = math.prod(spacing)
    needed = max(_FEWEST, math.ceil(math.pi / 6 * smallest * smallest * smallest / 4 / volume))
    count = int(np.count_nonzero(host[box.slices]))
    if count < needed:
        what = f"the host has {count} voxels ({count * volume / 1000:.2g} ml): too few for a {growth.name}"
        mend = f"The smallest, {smallest:g} mm, needs {needed} voxels here: give the whole {hosts}."
        raise InputError(what, mend=mend)
    return box


def host_level(image: Image, host: Mask, box: Box) -> float:
    """Give the median HU of a host, on a sample."""
    return float(np.median(_sample(image[box.slices][host[box.slices]])))


def estimate_phase(organ: str, image: Image, level: float) -> str:
    """Estimate the phase from the host's median HU, or from the scan where the host tells nothing."""
    table = host_intensities(organ)
    if table is not None:
        return min(table, key=lambda phase: abs(table[phase] - level))
    thin = image[:: max(1, image.shape[0] // 48), :: max(1, image.shape[1] // 48), :: max(1, image.shape[2] // 48)]
    soft = thin[(thin > _SOFT[0]) & (thin < _SOFT[1])]
    return "venous" if soft.size and float(np.median(soft)) > _ENHANCED else "native"


def _sample(values: Float32[NDArray[np.float32], "n"]) -> Float32[NDArray[np.float32], "n"]:
    return values[:: max(1, values.size // _SAMPLE)]
