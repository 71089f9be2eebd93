"""Parting what a data set merges: both kidneys, lungs, adrenal glands or heads of femur into right and left."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.datasets.description import Rule
from dsmseg.volume import bounding_box

Mask = Bool[NDArray[np.bool_], "x y z"]


@dataclass(frozen=True, slots=True)
class _Pair:
    """apart_mm: how far the centers of the two lie apart from left to right, at the least. neck_mm: how thick, at the
    most, a bridge between the two is that does not belong to the organ.
    """

    apart_mm: float
    neck_mm: float


_PAIRS: Mapping[Rule, _Pair] = {
    "kidneys": _Pair(apart_mm=55.0, neck_mm=16.0),
    "lungs": _Pair(apart_mm=70.0, neck_mm=24.0),
    "adrenal glands": _Pair(apart_mm=22.0, neck_mm=8.0),
    "heads of femur": _Pair(apart_mm=90.0, neck_mm=12.0),
}
# A part smaller than this share of the largest is a fragment, and goes with the nearer of the two: of parts as they are
# (the tip of a lung that the scan just reaches is no fragment), and of what is left of one that was worn down.
_LEAST_SHARE, _LEAST_WORN_SHARE = 0.02, 0.12
_HALF_SHARE = 0.25  # each side of a cut holds at least this share of the whole
_UNCERTAIN_SHARE = 0.25  # of apart_mm: one organ alone must lie at least this far from the middle to have a side


def part_sides(
    mask: Mask, rule: Rule, spacing: tuple[float, float, float], middle: float | None
) -> tuple[Mask, Mask] | None:
    """Part a mask (X, Y, Z in RAS) of both sides of an organ into (right, left).

    Two large parts that lie apart are the two sides, whichever is further right being the right one. A single part is
    first tried as two that touch: it is worn down until it falls in two, and each voxel goes with the nearer half. If
    it stays one and reaches far across the body's middle (lungs in broad contact, a horseshoe kidney), it is cut where
    it is thinnest near there. Else it is the organ of the side that it lies on, and the other is missing (one kidney).

    Args:
        mask: both sides together.
        rule: which organ it is.
        spacing: mm.
        middle: of the body between right and left, as a voxel index along the first axis; None where it is unknown.

    Returns:
        Right and left, which together are the mask; None where the anatomy does not tell, as with one kidney that lies
        in the middle.
    """
    box = bounding_box(mask)
    if box is None:
        return mask, mask
    inner = mask[box]
    pair = _PAIRS[rule]
    seeds = _apart(inner, pair, spacing, _LEAST_SHARE)
    if seeds is not None and middle is not None:
        # Two parts of one organ, as a kidney that a cyst divides, lie on one side of the body.
        offsets = [(_center(seed) + box[0].start - middle) * spacing[0] for seed in seeds]
        certain = _UNCERTAIN_SHARE * pair.apart_mm
        if min(offsets) > certain or max(offsets) < -certain:
            nothing = np.zeros_like(mask)
            return (mask, nothing) if offsets[0] > 0 else (nothing, mask)
    if seeds is None:
        seeds = _worn_apart(inner, pair, spacing)
    if seeds is not None:
        is_right = _nearer(seeds, spacing) & inner
        return _placed(mask, box, is_right), _placed(mask, box, inner & ~is_right)
    if middle is None:
        return None
    cut = _waist(mask, pair, spacing, middle)
    if cut is not None:
        is_right = mask.copy()
        is_right[:cut] = False
        return is_right, mask & ~is_right
    off_middle = (_center(mask) - middle) * spacing[0]
    if abs(off_middle) < _UNCERTAIN_SHARE * pair.apart_mm:
        return None
    nothing = np.zeros_like(mask)
    return (mask, nothing) if off_middle > 0 else (nothing, mask)


def _center(mask: Mask) -> float:
    """The center along the first axis, as a voxel index."""
    counts = mask.sum((1, 2))
    return float(counts @ np.arange(len(counts)) / counts.sum())


def _waist(mask: Mask, pair: _Pair, spacing: tuple[float, float, float], middle: float) -> int | None:
    """Give the first slice of the right half of a part that lies across the middle: where it is thinnest near there."""
    counts = mask.sum((1, 2))
    slices = np.arange(len(counts))
    reach = pair.apart_mm / 3 / spacing[0]
    near = slices[(np.abs(slices - middle) <= reach) & (slices > 0)]
    if near.size == 0:
        return None
    cut = int(min(near, key=lambda index: (int(counts[index]), abs(index - 0.5 - middle))))
    left, right = counts[:cut].sum(), counts[cut:].sum()
    if min(left, right) < _HALF_SHARE * (left + right):
        return None
    apart = counts[cut:] @ slices[cut:] / right - counts[:cut] @ slices[:cut] / left
    return cut if apart * spacing[0] >= pair.apart_mm else None


def _apart(
    mask: Mask, pair: _Pair, spacing: tuple[float, float, float], least_share: float
) -> tuple[Mask, Mask] | None:
    """Give the two sides, as (right, left) and without fragments, where they are separate parts."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count < 2:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    large = np.flatnonzero(sizes >= least_share * sizes.max()) + 1
    if large.size < 2:
        return None
    along = np.arange(mask.shape[0]) * spacing[0]
    centers = {}
    for part in large:
        profile = (parts == part).sum((1, 2))
        centers[int(part)] = float(profile @ along / profile.sum())
    order = sorted(centers, key=lambda part: centers[part])
    # The widest gap between neighbors from left to right is where the two sides part.
    gaps = [centers[high] - centers[low] for low, high in pairwise(order)]
    cut = int(np.argmax(gaps)) + 1
    left, right = order[:cut], order[cut:]
    between = _mean(right, centers, sizes) - _mean(left, centers, sizes)
    if between < pair.apart_mm:
        return None
    return np.isin(parts, right), np.isin(parts, left)


def _mean(parts: list[int], centers: Mapping[int, float], sizes: NDArray[np.int64]) -> float:
    weights = [float(sizes[part - 1]) for part in parts]
    return float(np.average([centers[part] for part in parts], weights=weights))


def _worn_apart(mask: Mask, pair: _Pair, spacing: tuple[float, float, float]) -> tuple[Mask, Mask] | None:
    """Wear a part down, a voxel's width at a time, until what is left lies in two places that far apart."""
    if mask.shape[0] * spacing[0] < pair.apart_mm:
        return None
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    step = min(spacing)
    for worn in np.arange(step, pair.neck_mm / 2 + step, step):
        seeds = _apart(depth > worn, pair, spacing, _LEAST_WORN_SHARE)
        if seeds is not None:
            return seeds
    return None


def _nearer(seeds: tuple[Mask, Mask], spacing: tuple[float, float, float]) -> Mask:
    right, left = (ndimage.distance_transform_edt(~seed, sampling=spacing) for seed in seeds)
    nearer: Mask = right < left
    return nearer


def _placed(mask: Mask, box: tuple[slice, slice, slice], inner: Mask) -> Mask:
    whole = np.zeros_like(mask)
    whole[box] = inner
    return whole
