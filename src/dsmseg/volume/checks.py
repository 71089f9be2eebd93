"""What a scan must hold to be used: one volume, a real grid, and intensities in HU. Each refusal is one line."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError

SMALLEST_SPACING_MM = 0.05
LARGEST_SPACING_MM = 30.0
LARGEST_SKEW_DEGREES = 15.0
LARGEST_VOXEL_COUNT = 2**32
# The longest table moves by less than this, and no gantry is much wider than 0.8 m.
LARGEST_EXTENT_MM = 3000.0
LARGEST_EXTENT_LITERS = 2000.0
# Every CT that shows a patient shows air or at least fat; nothing but rescaled or foreign data stays above this.
HIGHEST_MINIMUM_HU = -200.0


class IntensityError(InputError):
    """Intensities that are not those of a CT in HU."""


def spatial_shape(shape: Sequence[int], where: object) -> tuple[int, int, int]:
    """Return the three sizes of one volume, dropping trailing axes of size 1.

    Raises:
        InputError: more than one volume, fewer than two voxels along an axis, or more than `LARGEST_VOXEL_COUNT`.
    """
    sizes = [int(size) for size in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    text = " x ".join(str(size) for size in sizes)
    if len(sizes) > 3:
        raise InputError(f"holds more than one volume ({text})", where=where, mend="Save one 3D volume by itself.")
    if len(sizes) < 3 or min(sizes) < 2:
        raise InputError(
            f"is not a volume but one slice or less ({text})", where=where, mend="Give the whole scan, not one slice."
        )
    if math.prod(sizes) > LARGEST_VOXEL_COUNT:
        raise InputError(
            f"claims {text} voxels, more than {LARGEST_VOXEL_COUNT}",
            where=where,
            mend="The header is damaged, or the scan has to be cropped first.",
        )
    return sizes[0], sizes[1], sizes[2]


def check_real_numbers(dtype: np.dtype[np.generic], where: object) -> None:
    """Refuse colors, vectors, complex numbers and anything else that is not one real number a voxel."""
    if dtype.kind not in "biuf":
        raise not_one_number(where)


def not_one_number(where: object) -> InputError:
    """Say that voxels hold more than one real number."""
    return InputError(
        "holds colors, vectors or complex numbers instead of one number a voxel",
        where=where,
        mend="Give the CT itself in HU, not a picture of it.",
    )


def check_grid(shape: Sequence[int], affine: NDArray[np.float64], where: object) -> None:
    """Refuse three sizes and an affine (4x4, voxel -> mm) that cannot place a CT in space.

    Raises:
        InputError: NaN, singular, spacing outside 0.05 to 30 mm, axes that are skewed by more than 15 degrees, or an
            extent above `LARGEST_EXTENT_MM` along an axis or `LARGEST_EXTENT_LITERS` in all.
    """
    _check_affine(affine, where)
    extent = np.linalg.norm(affine[:3, :3], axis=0) * shape
    if extent.max() > LARGEST_EXTENT_MM or extent.prod() / 1e6 > LARGEST_EXTENT_LITERS:
        text = " x ".join(f"{value:.0f}" for value in extent)
        raise InputError(
            f"covers {text} mm, above {LARGEST_EXTENT_MM / 1000:g} m along an axis or {LARGEST_EXTENT_LITERS:g} liters",
            where=where,
            mend="Check the spacing in the header, and correct it there.",
        )


def _check_affine(affine: NDArray[np.float64], where: object) -> None:
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
        raise InputError(
            "has an affine with NaN or without sense", where=where, mend="Convert it again from its DICOM."
        )
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
    text = " x ".join(f"{value:.3g}" for value in spacing)
    if spacing.min() < SMALLEST_SPACING_MM or spacing.max() > LARGEST_SPACING_MM:
        raise InputError(
            f"has a voxel spacing of {text} mm, outside {SMALLEST_SPACING_MM:g} to {LARGEST_SPACING_MM:g} mm",
            where=where,
            mend="Correct the spacing in the header, or convert it again from its DICOM.",
        )
    directions = affine[:3, :3] / spacing
    cosine = max(abs(float(directions[:, i] @ directions[:, j])) for i, j in combinations(range(3), 2))
    skew = math.degrees(math.asin(min(cosine, 1.0)))
    if skew > LARGEST_SKEW_DEGREES or abs(np.linalg.det(directions)) < 0.5:
        raise InputError(
            f"has voxel axes that are {skew:.0f} degrees off a right angle",
            where=where,
            mend="Resample it to a straight grid (dcm2niix does for a tilted gantry).",
        )


def check_intensities(array: NDArray[np.generic], where: object = None) -> None:
    """Refuse an array that cannot be a CT in HU: NaN, infinite, constant, or without anything below -200.

    Raises:
        IntensityError: it is one of these.
    """
    with np.errstate(invalid="ignore"):
        low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise IntensityError(
            "holds NaN or infinite values", where=where, mend="Replace them, for example by -1024 (air), and save it."
        )
    if low == high:
        raise IntensityError(
            f"holds the value {low:g} in every voxel", where=where, mend="Give a scan that is not empty."
        )
    if low >= HIGHEST_MINIMUM_HU:
        kind = "were scaled for display" if low >= 0 and high <= 255 else "are not Hounsfield units, or not of a CT"
        raise IntensityError(
            f"has intensities from {low:g} to {high:g}, which {kind}",
            where=where,
            mend="Give a CT in HU, where air is about -1000; raw values from 0 often need 1024 subtracted.",
        )
