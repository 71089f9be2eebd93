"""The anomaly of a scan: where an organ looks unlike itself, of all organs that were found.

It is computed at the end, when whole organs are known, on the working grid made as coarse as it needs, about 3 mm.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from dsmseg.inference.boxes import WHOLE, Box
from dsmseg.inference.deviation import CLOSING_MM, deviation
from dsmseg.inference.framing import Frame
from dsmseg.inference.hulls import Hull, Map, Mask, box_around, closed_hull
from dsmseg.inference.postprocessing import Claims
from dsmseg.inference.thorax import in_place_of_lung
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

LUNGS = frozenset({"Right Lung", "Left Lung"})

_COARSE_MM = 3.0
_LEAST_ML = 2.0  # an adrenal gland; of fewer voxels, center and spread mean nothing
_ENCLOSED_MM = np.float32(1e6)  # farther than any hull reaches
_LESS_SURE = np.float32(0.7)  # mediastinum is soft tissue too: what is in the place of lung ranks behind a nodule


def anomaly_map(frame: Frame, claims: Claims, organs: Sequence[StructureClass]) -> tuple[Map, Grid]:
    """Give the anomaly, 0..1, and its grid: the frame's, made coarser to about 3 mm, axes in RAS.

    It is the `deviation` from the center of the organ in whose hull a voxel is; in several hulls, from that of the
    organ that claims it, else of the nearest one; 0 elsewhere.

    Args:
        frame: the scan.
        claims: masks of the organs in it, without fragments.
        organs: that were looked for. Both of a pair have one center, so that one that is mostly tumor has none.
    """
    factors = [max(1, int(_COARSE_MM / step + 1e-6)) for step in frame.grid.spacing]
    hu, body = _block_means(frame.hu, factors), _block_means(frame.body, factors) > 0
    scores = _Scores(hu, body, _coarse(frame.grid, factors))
    for masks in _masks(claims, organs, factors):
        scores.compare(masks)
    return np.where(body, scores.score, np.float32(0)), scores.grid


class _Scores:
    """The score so far, and how near the organ is that it compares with."""

    def __init__(self, hu: Map, body: Mask, grid: Grid) -> None:
        self._hu, self._body, self.grid = hu, body, grid
        self.score = np.zeros(hu.shape, np.float32)
        self._nearest = np.full(hu.shape, np.inf, np.float32)

    def compare(self, masks: Mapping[str, Mask]) -> None:
        """Compare with an organ, or with both of a pair, by name."""
        mask: Mask = np.logical_or.reduce(list(masks.values()))
        if not COMPARED.issuperset(masks) or mask.sum() * self.grid.voxel_volume_ml < _LEAST_ML:
            self.score[mask], self._nearest[mask] = 0, 0
            return
        if masks.keys() == LUNGS:
            self._compare_lungs(mask, masks)
            return
        box = box_around(mask, self.grid.spacing, CLOSING_MM) or WHOLE
        hull = self._hull(masks, box)
        self._take(box, hull, deviation(self._hu[box], mask[box], hull.inside, self.grid.spacing))

    def _compare_lungs(self, mask: Mask, lungs: Mapping[str, Mask]) -> None:
        """Compare with the lungs what is in their hulls, and what is in the place of lung."""
        spacing = self.grid.spacing
        place = in_place_of_lung(self._hu, self._body, lungs["Right Lung"], lungs["Left Lung"], spacing)
        hull = self._hull(lungs, WHOLE)
        inside = hull.inside | (place > 0)
        sure = np.where(hull.inside, np.float32(1), _LESS_SURE * place)
        self._take(WHOLE, Hull(inside, hull.distance), sure * deviation(self._hu, mask, inside, spacing))

    def _hull(self, masks: Mapping[str, Mask], box: Box) -> Hull:
        """Give the hulls of one or of both sides together: nothing is closed between them."""
        hulls = [closed_hull(one[box], self.grid.spacing, CLOSING_MM) for one in masks.values()]
        inside: Mask = np.logical_or.reduce([one.inside for one in hulls])
        return Hull(inside, np.minimum.reduce([one.distance for one in hulls]))

    def _take(self, box: Box, hull: Hull, score: Map) -> None:
        """Take the score where this organ is nearer than those before."""
        # What a bay encloses may be farther from the mask than the radius.
        distance = np.where(hull.inside, np.minimum(hull.distance, _ENCLOSED_MM), np.float32(np.inf))
        nearer = distance < self._nearest[box]
        self.score[box] = np.where(nearer, score, self.score[box])
        self._nearest[box] = np.where(nearer, distance, self._nearest[box])


def _masks(claims: Claims, organs: Sequence[StructureClass], factors: Sequence[int]) -> Iterator[Mapping[str, Mask]]:
    """Give the organs' masks on the coarse grid by name, the sides of a pair together."""
    for _, sides in groupby(sorted(organs, key=_paired_name), key=_paired_name):
        yield {one.name: _block_means(claims.mask(one).T, factors) > 0.5 for one in sides}


def _paired_name(organ: StructureClass) -> str:
    return organ.name if organ.side is None else organ.name.removeprefix(f"{organ.side.capitalize()} ")


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
