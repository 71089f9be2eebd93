"""Blend a lesion into a scan: partial volume at its margin, the scan's own noise on its HU."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from dsmseg.synthesis.tumors import grain
from dsmseg.synthesis.tumors.interior import Look, fill
from dsmseg.synthesis.tumors.kinds import Variant
from dsmseg.synthesis.tumors.lesions import Lesion

Image = Float32[NDArray[np.float32], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]
Field = Float64[NDArray[np.float64], "x y z"]

_SOFT = (-20.0, 140.0)  # HU of tissue on which noise is measured where the host is none
_REACH = 90  # voxels from a lesion, within its slices, where that is done
_UNEVEN = 1.5  # times the noise on tissue: a host that varies more is not smooth by itself
_BORDER_BLUR = 0.8  # mm
_GAS = -200.0  # HU that only gas stays below
_HAZE_KEEPS = 0.55  # of the lung's structures seen through ground glass


@dataclass(frozen=True, slots=True)
class Canvas:
    """The scan as it was, the scan that is painted on, the host, its median HU, and whether it is solid tissue."""

    before: Image
    image: Image
    host: Mask
    level: float
    solid: bool


def paint(
    canvas: Canvas, lesion: Lesion, variant: Variant, look: Look, features: frozenset[str], random: Generator
) -> None:
    """Paint a lesion on the canvas, in its box."""
    box = lesion.box
    under = canvas.image[box.slices]
    values = fill(box, -lesion.distance, variant, look, features, random)
    if "ground_glass" in features:
        values += np.float32(_HAZE_KEEPS) * (under - np.float32(canvas.level))
    else:
        values += _noise(canvas, lesion, random)
    share = opacity(lesion).astype(np.float32)
    painted = np.where(share > 0, under + share * (values - under), under)
    if canvas.solid and lesion.border is not None and lesion.shift == 0:
        painted = np.where(lesion.border > 0, _beyond(canvas.level, lesion, lesion.border, under, values), painted)
    if variant.shape == "wall" and lesion.border is not None:
        painted = np.where(lesion.border > 0, _against_wall(lesion, lesion.border, under, values, painted), painted)
    canvas.image[box.slices] = painted


def _against_wall(lesion: Lesion, border: Field, under: Image, values: Image, painted: Image) -> Image:
    """Give what voxels just outside a hollow host hold: gas that a mask leaves before the wall is lesion too."""
    share = np.clip(2.5 - border / min(lesion.box.spacing), 0.0, 1.0) * _coverage(lesion.surface, _BORDER_BLUR)
    filled = under + share.astype(np.float32) * (values - under)
    return np.where((under < _GAS) & (share > 0), filled, painted)


def _beyond(level: float, lesion: Lesion, border: Field, under: Image, values: Image) -> Image:
    """Give what voxels outside the host hold where the lesion lies at its border.

    They hold some host by partial volume, which becomes lesion; what is neither host nor lesion stays.
    """
    host_share = np.clip(1.0 - border / (2.0 * min(lesion.box.spacing)), 0.0, 1.0)
    share = (_coverage(lesion.surface, lesion.blur) * host_share).astype(np.float32)
    changed = under + share * (values - np.float32(level))
    return np.where(share > 0, np.clip(changed, np.minimum(under, values), np.maximum(under, values)), under)


def opacity(lesion: Lesion) -> Field:
    """Give the share of each voxel that the lesion fills: 0.5 or more in its mask, less elsewhere."""
    share = _coverage(lesion.surface, lesion.blur)
    if lesion.border is not None:
        share = np.minimum(share, _coverage(lesion.border, _BORDER_BLUR))
    return np.where(lesion.mask, np.maximum(share, 0.5), np.minimum(share, 0.499))


def _coverage(distance: Field, blur: float) -> Field:
    """Give the share of each voxel below a surface: it falls over the voxel's own width and ``blur`` mm."""
    squared = np.full(distance.shape, blur * blur)
    for axis in range(3):
        if distance.shape[axis] > 1:
            step = np.gradient(distance, axis=axis)
            squared += step * step
    share: Field = np.clip(0.5 - distance / np.sqrt(squared), 0.0, 1.0)
    return share


def _noise(canvas: Canvas, lesion: Lesion, random: Generator) -> Image:
    """Give the noise of the scan over a lesion's box."""
    box = lesion.box
    tissue = _tissue_grain(canvas, lesion)
    made = grain.more(tissue, box, random)
    if not canvas.solid:
        return made
    valid = canvas.host[box.slices] | lesion.mask
    left = grain.residual(canvas.image[box.slices], valid, box.spacing)
    deep = valid if lesion.border is None else valid & (lesion.border < -max(box.spacing))
    found = grain.measure(left, deep if np.count_nonzero(deep) > 100 else valid, box.spacing)
    if found.deviation > _UNEVEN * tissue.deviation:  # cortex and pyramids, vessels, edges: no noise
        return made
    return grain.keep(left, made * np.float32(found.deviation / tissue.deviation), found)


def _tissue_grain(canvas: Canvas, lesion: Lesion) -> grain.Grain:
    """Measure the noise on soft tissue in slices around a lesion: its host is air, or full of edges."""
    sides = []
    for axis, reach in enumerate((_REACH, _REACH, 2)):
        middle = round(float(lesion.center[axis]) / lesion.box.spacing[axis])
        sides.append(slice(max(0, middle - reach), middle + reach + 1))
    slab = canvas.before[sides[0], sides[1], sides[2]]
    soft = (slab > _SOFT[0]) & (slab < _SOFT[1])
    inner = uniform_filter(soft.astype(np.float32), (5, 5, 1), mode="constant") > 0.99
    return grain.measure(grain.residual(slab, soft, lesion.box.spacing), inner, lesion.box.spacing)
