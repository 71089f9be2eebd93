"""The anomaly of a scan: where an organ looks unlike itself, of all organs that were found.

It is computed at the end, when whole organs are known, on the working grid made as coarse as it needs, about 3 mm.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from dsmseg.inference.deviation import CLOSING_MM, deviations, rim, squashed
from dsmseg.inference.framing import Frame
from dsmseg.inference.hulls import Hull, Map, Mask, box_around, closed_hull
from dsmseg.inference.postprocessing import Claims
from dsmseg.taxonomy import StructureClass
from dsmseg.volume import Grid

COMPARED = frozenset(
    {
        "Spleen", "Right Kidney", "Left Kidney", "Liver", "Pancreas", "Right Adrenal Gland", "Left Adrenal Gland",
        "Right Lung", "Left Lung", "Prostate",
    }
)  # fmt: skip
"""Organs that have one center. A hollow organ has two, of wall and of content, and the content is anything: gas,
contrast agent, food. Vessels change with the phase along their way. Those explain their own voxels, and no others."""

_COARSE_MM = 3.0
_LEAST_ML = 2.0  # an adrenal gland; of fewer voxels, center and spread mean nothing


def anomaly_map(frame: Frame, claims: Claims, organs: Sequence[StructureClass]) -> tuple[Map, Grid]:
    """Give the anomaly, 0..1, and its grid: the frame's, made coarser to about 3 mm, axes in RAS.

    It is 1 - exp(-(z/3)^2) of the robust standard deviations z from the center of the organ whose hull a voxel is in,
    times a rim that leaves out partial volume at the hull's surface; 0 outside of hulls.

    Args:
        frame: the scan.
        claims: masks of the organs in it, without fragments.
        organs: that were looked for. Both of a pair have one center, so that one that is mostly tumor has none.
    """
    factors = [max(1, int(_COARSE_MM / step + 1e-6)) for step in frame.grid.spacing]
    hu, grid = _block_means(frame.hu, factors), _coarse(frame.grid, factors)
    score, nearest = np.zeros(hu.shape, np.float32), np.full(hu.shape, np.inf, np.float32)
    for name, masks in _masks(claims, organs, factors):
        mask: Mask = np.logical_or.reduce(masks)
        box = box_around(mask, grid.spacing, CLOSING_MM)
        if box is None:
            continue
        if name not in COMPARED or mask.sum() * grid.voxel_volume_ml < _LEAST_ML:
            score[mask], nearest[mask] = 0, 0
            continue
        hull = _union([closed_hull(one[box], grid.spacing, CLOSING_MM) for one in masks])
        own = squashed(deviations(hu[box], mask[box], hull.inside, grid.spacing)) * rim(hull.inside, grid.spacing)
        # What a bay encloses may be farther from the mask than the radius.
        distance = np.where(hull.inside, np.minimum(hull.distance, np.float32(1e6)), np.float32(np.inf))
        nearer = distance < nearest[box]
        score[box] = np.where(nearer, own, score[box])
        nearest[box] = np.where(nearer, distance, nearest[box])
    return np.where(_block_means(frame.body, factors) > 0, score, np.float32(0)), grid


def _masks(
    claims: Claims, organs: Sequence[StructureClass], factors: Sequence[int]
) -> Iterator[tuple[str, list[Mask]]]:
    """Give the organs' masks on the coarse grid, sides of a pair together, by the name of one of them."""
    ordered = sorted(organs, key=_paired_name)
    for _, sides in groupby(ordered, key=_paired_name):
        parts = list(sides)
        yield parts[0].name, [_block_means(claims.mask(one).T, factors) > 0.5 for one in parts]


def _paired_name(organ: StructureClass) -> str:
    return organ.name if organ.side is None else organ.name.removeprefix(f"{organ.side.capitalize()} ")


def _union(hulls: Sequence[Hull]) -> Hull:
    return Hull(np.logical_or.reduce([one.inside for one in hulls]), np.minimum.reduce([one.distance for one in hulls]))


def _block_means(array: NDArray[np.generic], factors: Sequence[int]) -> Map:
    """Give the mean of each block of voxels; the last blocks may be thinner."""
    means: Map = array.astype(np.float32, copy=False)
    for axis, factor in enumerate(factors):
        if factor > 1:
            starts = np.arange(0, means.shape[axis], factor)
            counts = np.diff(starts, append=means.shape[axis]).astype(np.float32)
            shape = [-1 if other == axis else 1 for other in range(3)]
            means = (np.add.reduceat(means, starts, axis=axis) / counts.reshape(shape)).astype(np.float32)
    return means


def _coarse(grid: Grid, factors: Sequence[int]) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.asarray(factors) - 1) / 2)
    affine[:3, :3] *= factors
    x, y, z = (-(-length // factor) for length, factor in zip(grid.shape, factors, strict=True))
    return Grid((x, y, z), affine)
