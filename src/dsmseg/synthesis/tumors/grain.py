"""The noise of a scan: how strong it is, how it holds together from voxel to voxel, and more of the same."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from dsmseg.synthesis.noise import seed_of, white_noise
from dsmseg.synthesis.tumors.grid import Box

Image = Float32[NDArray[np.float32], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]

_WINDOW_MM = 7.0
_TAILS = 2.2  # deviations: what lies farther out is an edge, not noise
_QUIET_PERCENT = 42.0
_USUAL = 12.0  # HU, where nothing can be measured
_FEWEST = 60  # voxels to measure on


@dataclass(frozen=True, slots=True)
class Grain:
    """The deviation of a scan's noise in HU, and the correlation of neighbors along each axis."""

    deviation: float
    correlation: tuple[float, float, float]


def residual(image: Image, valid: Mask, spacing: tuple[float, float, float]) -> Image:
    """Give what is left of an image after its local mean over valid voxels; 0 for the others."""
    size = _window(spacing)
    share = uniform_filter(valid.astype(np.float32), size, mode="nearest")
    mean = uniform_filter(np.where(valid, image, np.float32(0)), size, mode="nearest")
    return np.where(valid, image - mean / np.maximum(share, np.float32(1e-4)), np.float32(0))


def measure(left: Image, valid: Mask, spacing: tuple[float, float, float]) -> Grain:
    """Measure the noise on a residual, in the quieter places: elsewhere there are edges and vessels."""
    if np.count_nonzero(valid) < _FEWEST:
        return Grain(_USUAL, (0.4, 0.4, 0.2))
    power = uniform_filter(left * left, _window(spacing), mode="nearest")
    level = max(float(np.percentile(power[valid], _QUIET_PERCENT)), 0.1)
    deviation = 1.12 * math.sqrt(level)  # the local mean took a part of the noise away
    quiet = valid & (power < np.float32(2.0 * level))
    correlation = []
    for axis in range(3):
        a, b = np.moveaxis(left, axis, 0)[:-1], np.moveaxis(left, axis, 0)[1:]
        both = np.moveaxis(quiet, axis, 0)[:-1] & np.moveaxis(quiet, axis, 0)[1:]
        first, second = a[both].astype(np.float64), b[both].astype(np.float64)
        energy = float((first * first).sum() + (second * second).sum()) / 2
        correlation.append(float((first * second).sum()) / energy if energy > 0 else 0.0)
    return Grain(deviation, (correlation[0], correlation[1], correlation[2]))


def _window(spacing: tuple[float, float, float]) -> list[int]:
    return [max(5, 2 * round(0.5 * _WINDOW_MM / mm) + 1) for mm in spacing]


def more(grain: Grain, box: Box, random: Generator) -> Image:
    """Make noise like a scan's: each axis is blurred by [a, 1, a], which gives neighbors their correlation."""
    field = white_noise([count + 2 for count in box.shape], [first - 1 for first in box.start], seed_of(random))
    for axis, wanted in enumerate(grain.correlation):
        rho = min(max(wanted, 0.0), 0.68)
        side = np.float32((1.0 - math.sqrt(1.0 - 2.0 * rho * rho)) / (2.0 * rho)) if rho > 0.01 else np.float32(0)
        norm = np.float32(1.0 / math.sqrt(1.0 + 2.0 * float(side) * float(side)))
        line = np.moveaxis(field, axis, 0)
        field = np.moveaxis((line[1:-1] + side * (line[:-2] + line[2:])) * norm, 0, axis)
    return field * np.float32(grain.deviation)


def keep(left: Image, made: Image, grain: Grain) -> Image:
    """Keep a scan's own noise, and take noise that was made where there is an edge or a vessel instead."""
    return np.where(np.abs(left) <= np.float32(_TAILS * grain.deviation), left, made)
