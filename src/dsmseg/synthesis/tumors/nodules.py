"""Real nodules, cut out of the scans of others, pasted into a lung.

A folder of them holds ``ct.npz`` (name -> HU, int16, x y z), ``mask.npz`` (name -> bool, the same shape) and
``nodules.csv`` with the columns nodule, patient, spacing_x, spacing_y, spacing_z (mm). Nothing in it is pickled.
"""

import csv
import math
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int16
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from dsmseg.errors import InputError
from dsmseg.synthesis.scanner import blur
from dsmseg.synthesis.tumors.draws import exponential, normal, uniform
from dsmseg.synthesis.tumors.grid import Box, Point, around, bounding_box
from dsmseg.synthesis.tumors.places import find_sites

Image = Float32[NDArray[np.float32], "x y z"]
Mask = Bool[NDArray[np.bool_], "x y z"]

_COLUMNS = ("nodule", "patient", "spacing_x", "spacing_y", "spacing_z")
_MEND = "Give a folder with ct.npz, mask.npz and nodules.csv (docs/synthesis.md)."
_SCALE_SPREAD = 0.2  # deviation of the logarithm of a nodule's size beside its own
_SMALLEST_MM = 4.0  # diameter of what is pasted
_DEPTH = 0.6  # of the center in the lung, in radii, at least
_EDGE_MM = 0.7  # deviation of the soft edge


@dataclass(frozen=True, slots=True)
class Nodule:
    """A real nodule in a tight crop: HU, its mask, mm between voxels, whose it is."""

    hu: Int16[NDArray[np.int16], "x y z"]
    mask: Mask
    spacing: tuple[float, float, float]
    patient: str

    @property
    def radius(self) -> float:
        """Radius in mm of a ball of the same volume."""
        volume = float(np.count_nonzero(self.mask)) * self.spacing[0] * self.spacing[1] * self.spacing[2]
        return float(np.cbrt(3.0 * volume / (4.0 * math.pi)))


@dataclass(frozen=True, slots=True)
class Pasted:
    """A scan with a nodule in it, and the nodule's mask."""

    image: Image
    mask: Mask


def read_nodules(folder: Path, exclude: Collection[str] = ()) -> tuple[Nodule, ...]:
    """Read the nodules of a folder, but those of the patients to exclude.

    Raises:
        InputError: a file cannot be read or does not fit the others, a patient to exclude is unknown, or none is left.
    """
    try:
        with (folder / "nodules.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not set(_COLUMNS) <= set(rows[0]):
            raise InputError(f"lacks the columns {', '.join(_COLUMNS)}", where=folder / "nodules.csv", mend=_MEND)
        if strangers := sorted(set(exclude) - {row["patient"] for row in rows}):
            what = f"holds no patient {strangers[0]} to exclude"
            raise InputError(what, where=folder / "nodules.csv", mend="Write patients as its column says.")
        with np.load(folder / "ct.npz") as images, np.load(folder / "mask.npz") as masks:
            found = tuple(
                _nodule(row, images[row["nodule"]], masks[row["nodule"]])
                for row in rows
                if row["patient"] not in exclude
            )
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"nodules cannot be read ({error})", where=folder, mend=_MEND) from error
    if not found:
        raise InputError("no nodule is left", where=folder, mend="Exclude fewer patients.")
    return found


def paste(
    image: Image, host: Mask, spacing: tuple[float, float, float], nodule: Nodule, random: Generator
) -> Pasted | None:
    """Paste a nodule into a lung: turned about z, mirrored and scaled; None where it does not fit.

    Args:
        image: HU. host: mask of the lung, without what grows in it already.
        spacing: mm between voxels.
        nodule: what is pasted. random: the stream of chance.
    """
    scale = max(exponential(_SCALE_SPREAD * normal(random)), 0.5 * _SMALLEST_MM / nodule.radius)
    box = bounding_box(host, spacing)
    if box is None:
        return None
    sites = find_sites(host, box)
    room = np.flatnonzero(sites.depths >= _DEPTH * scale * nodule.radius)
    if room.size == 0:
        return None
    center: Point = sites.places[int(room[int(random.integers(room.size))])]
    sides = [count * mm * scale for count, mm in zip(nodule.mask.shape, nodule.spacing, strict=True)]
    across = 0.5 * math.hypot(sides[0], sides[1]) + 2.0
    target = around(center, (across, across, 0.5 * sides[2] + 2.0), spacing, image.shape)
    hu, share = _resampled(nodule, target, center, _turn(random) / scale, scale)
    own = host[target.slices]
    share = np.where(own, share, np.float32(0))
    inside = share >= 0.5 * min(1.0, float(share.max()))
    if not inside.any() or share.max() < 0.1:
        return None
    out, mask = image.copy(), np.zeros(image.shape, np.bool_)
    out[target.slices] += share * (hu - image[target.slices])
    mask[target.slices] = inside
    return Pasted(out, mask)


def _nodule(row: dict[str, str], hu: NDArray[np.generic], mask: NDArray[np.generic]) -> Nodule:
    if hu.shape != mask.shape or hu.ndim != 3 or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(f"{row['nodule']}: HU {hu.shape} and mask {mask.dtype} {mask.shape} do not fit")
    spacing = (float(row["spacing_x"]), float(row["spacing_y"]), float(row["spacing_z"]))
    return Nodule(hu.astype(np.int16), mask.astype(np.bool_), spacing, row["patient"])


def _turn(random: Generator) -> Float64[NDArray[np.float64], "3 3"]:
    """Draw a rotation about z and a mirroring of each axis: slices stay slices."""
    while True:
        a, b = uniform(random, -1.0, 1.0), uniform(random, -1.0, 1.0)
        length = math.sqrt(a * a + b * b)
        if 0.1 < length <= 1.0:
            break
    signs = [1.0 if random.random() < 0.5 else -1.0 for _ in range(3)]
    a, b = a / length, b / length
    matrix: Float64[NDArray[np.float64], "3 3"] = np.array([[a, -b, 0.0], [b, a, 0.0], [0.0, 0.0, 1.0]]) * signs
    return matrix


def _resampled(
    nodule: Nodule, box: Box, center: Point, to_nodule: Float64[NDArray[np.float64], "3 3"], scale: float
) -> tuple[Image, Image]:
    """Give HU, and the share that the nodule has of each voxel, in a box of the patch."""
    sigmas = _smoothing(nodule.spacing, box.spacing, scale)
    hu = blur(nodule.hu.astype(np.float32), sigmas)
    soft = blur(nodule.mask.astype(np.float32), sigmas)
    x, y, z = box.offsets(center)
    index = []
    middle = [(float(line.min()) + float(line.max())) / 2 for line in nodule.mask.nonzero()]
    for axis in range(3):
        row = to_nodule[axis]
        index.append((row[0] * x + row[1] * y + row[2] * z) / nodule.spacing[axis] + middle[axis])
    places = np.stack(np.broadcast_arrays(*index))
    values: Image = map_coordinates(hu, places, order=1, mode="nearest")
    share: Image = map_coordinates(soft, places, order=1, mode="constant", cval=0.0)
    return values, share


def _smoothing(fine: Sequence[float], coarse: Sequence[float], scale: float) -> tuple[float, float, float]:
    """Give deviations in the nodule's voxels: its soft edge, and what the patch's voxels average."""
    x, y, z = (
        math.sqrt(_EDGE_MM * _EDGE_MM + max(0.0, wide * wide - mm * mm * scale * scale) / 12.0) / (mm * scale)
        for mm, wide in zip(fine, coarse, strict=True)
    )
    return x, y, z
