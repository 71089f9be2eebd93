"""How the slices of one series lie in space: their order, the affine, and every fault that would bend it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.volume.dicom.headers import SliceHeader
from dsmseg.volume.itk import LPS_TO_RAS

# Positions are often rounded to 0.1 mm, those of the stack's two ends too, so a slice may seem this far off its place.
ROUNDING_MM = 0.11
EVENNESS_SHARE = 0.01
LARGEST_UNEVENNESS_SHARE = 0.25
SAME_PLACE_MM = 0.01
LARGEST_TILT_DEGREES = 0.5
_SAME_DIRECTION = 1e-3
_RIGHT_ANGLE = 1e-2


def stacked(slices: Sequence[SliceHeader], where: Path) -> tuple[list[SliceHeader], NDArray[np.float64]]:
    """Order slices along their normal and return them with the affine (column, row, slice) -> mm RAS.

    Raises:
        InputError: one slice only; slices that differ in size, spacing or direction; missing, doubled, unevenly
            spaced or sideways shifted slices; a tilted gantry; files that are not plain grayscale slices in HU.
    """
    _check_alike(slices, where)
    row, column = _directions(slices[0], where)
    normal = np.cross(row, column)
    heights = np.array([np.dot(header.position or (), normal) for header in slices])
    order = np.argsort(heights, kind="stable")
    ordered = [slices[index] for index in order]
    positions = np.array([header.position for header in ordered])
    _check_gaps(heights[order], where)
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    _check_tilt(step, normal, slices, where)
    _check_straight(positions, step, where)
    between_rows, between_columns = ordered[0].spacing or (0.0, 0.0)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack((row * between_columns, column * between_rows, step))
    affine[:3, 3] = positions[0]
    return ordered, LPS_TO_RAS @ affine


def _check_alike(slices: Sequence[SliceHeader], where: Path) -> None:
    first = slices[0]
    if any(header.frames > 1 for header in slices):
        raise InputError(
            "is a multi-frame (enhanced) CT, which is not read", where=where, mend="Convert it with dcm2niix."
        )
    for header in slices:
        if header.photometric != "MONOCHROME2":
            raise InputError(
                f"its file {header.name} holds {header.photometric or 'unknown'} pixels, not grayscale in HU",
                where=where,
                mend="Give the original CT series, not a picture of it.",
            )
        if header.position is None or header.orientation is None or header.spacing is None:
            raise InputError(
                f"its file {header.name} lacks a usable position, orientation or pixel spacing",
                where=where,
                mend="Give the original CT series; screen captures do not belong in it.",
            )
        if not _same_plane(header, first):
            raise InputError(
                f"its files {first.name} and {header.name} differ in size, pixel spacing or orientation",
                where=where,
                mend="Keep only the slices of one stack in the folder.",
            )
        if header.rescaled != first.rescaled:
            raise InputError(
                "has a rescale intercept in some slices only", where=where, mend="Export the series again."
            )
    if len(slices) < 2:
        raise InputError("holds one CT slice only", where=where, mend="Give the folder of the whole series.")


def _same_plane(one: SliceHeader, other: SliceHeader) -> bool:
    return (
        one.sizes == other.sizes
        and np.allclose(one.spacing or (), other.spacing or (), rtol=1e-3)
        and np.allclose(one.orientation or (), other.orientation or (), atol=_SAME_DIRECTION)
    )


def _directions(header: SliceHeader, where: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    row, column = np.array(header.orientation).reshape(2, 3)
    lengths = np.array([row @ row, column @ column])
    if not np.allclose(lengths, 1.0, atol=_RIGHT_ANGLE) or abs(row @ column) > _RIGHT_ANGLE:
        raise InputError(
            f"its file {header.name} has an image orientation that is not two directions at a right angle",
            where=where,
            mend="Export the series again.",
        )
    return row, column


def _check_gaps(heights: NDArray[np.float64], where: Path) -> None:
    gaps = np.diff(heights)
    doubled = int((gaps < SAME_PLACE_MM).sum())
    if doubled:
        raise InputError(
            f"has slices that lie in the same place: {doubled} (copies, or several phases in one series)",
            where=where,
            mend="Keep one copy or one phase.",
        )
    usual = float(np.median(gaps))
    even = heights[0] + np.arange(len(heights)) * (heights[-1] - heights[0]) / (len(heights) - 1)
    if np.abs(heights - even).max() <= _tolerance(usual):
        return
    steps = np.rint(gaps / usual)
    missing = int((steps - 1).sum())
    if missing > 0 and np.abs(gaps - steps * usual).max() <= 2 * _tolerance(usual):
        raise InputError(
            f"has missing slices: {missing} (a gap of {gaps.max():.2f} mm where {usual:.2f} mm is usual)",
            where=where,
            mend="Copy or export the whole series again.",
        )
    raise InputError(
        f"has slices {gaps.min():.2f} to {gaps.max():.2f} mm apart, so slices are missing or unevenly spaced",
        where=where,
        mend="Export the whole series again, or reconstruct it with one slice spacing.",
    )


def _check_tilt(
    step: NDArray[np.float64], normal: NDArray[np.float64], slices: Sequence[SliceHeader], where: Path
) -> None:
    lean = np.degrees(np.arctan2(np.linalg.norm(np.cross(step, normal)), step @ normal))
    upright = np.degrees(np.arccos(min(1.0, abs(normal[2]))))
    told = max(abs(header.tilt_degrees) for header in slices)
    # A header that tells of a tilt while its planes lie straight contradicts itself: one of the two is wrong.
    contradiction = told > LARGEST_TILT_DEGREES and upright < LARGEST_TILT_DEGREES
    if lean > LARGEST_TILT_DEGREES or contradiction:
        raise InputError(
            f"was taken with the gantry tilted by {max(lean, told):.1f} degrees, so its slices are sheared",
            where=where,
            mend="Straighten it (dcm2niix writes a file whose name ends in _Tilt) and give that.",
        )


def _check_straight(positions: NDArray[np.float64], step: NDArray[np.float64], where: Path) -> None:
    even = positions[0] + np.arange(len(positions))[:, None] * step
    offset = float(np.linalg.norm(positions - even, axis=1).max())
    if offset > 2 * _tolerance(float(np.linalg.norm(step))):
        raise InputError(
            f"has slices that are shifted sideways by {offset:.2f} mm",
            where=where,
            mend="Keep only slices of one acquisition in the folder.",
        )


def _tolerance(spacing: float) -> float:
    return min(max(ROUNDING_MM, EVENNESS_SHARE * spacing), LARGEST_UNEVENNESS_SHARE * spacing)
