"""Candidate lesions: what a score map would find at each of some thresholds, small enough to keep for all scans.

A score map is looked at once. What stays of it are rows, one a connected part and threshold, so that thresholds, least
volumes and least mean scores are searched without the maps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import ndimage

from dsmseg.evaluation.masks import refuse_other_shapes
from dsmseg.volume import bounding_box

THRESHOLDS = tuple(2.0**odds / (1 + 2.0**odds) for odds in range(-7, 7))
"""Even in log-odds, from 1 : 128 to 64 : 1; 0.5 is among them. Beyond, scores of half precision tell little apart."""

LEAST_SHARE = 0.25
"""Of a candidate's voxels, from which on it counts as a lesion: a mask of four times a tumor does not show where it is,
and one over the whole organ, which touches every lesion in it, shows nothing."""

_NEIGHBORS = np.ones((3, 3, 3))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The candidates of one score map or of several, with the lesions that they should find.

    Attributes:
        thresholds: rising.
        level: of each candidate, the number of its threshold. scan: the number of its scan.
        voxels: of each candidate. shared: those of them that are tumor in the reference.
        volume_ml, mean_score: of each candidate.
        hits: pairs of a candidate and a lesion of the reference that share a voxel.
        reference_voxels: of each scan. lesions: of all scans.
    """

    thresholds: tuple[float, ...]
    level: Int[NDArray[np.int64], " candidate"]
    scan: Int[NDArray[np.int64], " candidate"]
    voxels: Int[NDArray[np.int64], " candidate"]
    shared: Int[NDArray[np.int64], " candidate"]
    volume_ml: Float[NDArray[np.float64], " candidate"]
    mean_score: Float[NDArray[np.float64], " candidate"]
    hits: Int[NDArray[np.int64], "hit 2"]
    reference_voxels: Int[NDArray[np.int64], " scan"]
    lesions: int

    @property
    def scans(self) -> int:
        """How many scans they are of."""
        return len(self.reference_voxels)

    def at(self, level: int) -> "Candidates":
        """Give those of one threshold."""
        kept = self.level == level
        number = np.cumsum(kept) - 1
        hits = self.hits[kept[self.hits[:, 0]]]
        return replace(
            self,
            level=self.level[kept],
            scan=self.scan[kept],
            voxels=self.voxels[kept],
            shared=self.shared[kept],
            volume_ml=self.volume_ml[kept],
            mean_score=self.mean_score[kept],
            hits=np.column_stack([number[hits[:, 0]], hits[:, 1]]),
        )

    @property
    def true(self) -> Bool[NDArray[np.bool_], " candidate"]:
        """Whether enough of a candidate is tumor; the others are false lesions."""
        true: NDArray[np.bool_] = self.shared >= np.maximum(1, LEAST_SHARE * self.voxels)
        return true


def find_candidates(
    scores: Float[NDArray[np.floating], "x y z"],
    reference: Bool[NDArray[np.bool_], "x y z"] | None,
    voxel_ml: float,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Candidates:
    """Find the parts of a score map (voxels that share a face, edge or corner) above each threshold.

    Args:
        scores: of one class, 0..1.
        reference: mask of that class; None where the scan is known to have none.
        voxel_ml: volume of a voxel.
        thresholds: rising; a voxel is marked where its score is above.

    Raises:
        InputError: the reference has another shape.
    """
    lesions: NDArray[np.integer] = np.zeros(scores.shape, np.int32)
    count = 0
    if reference is not None:
        refuse_other_shapes(reference, scores, "a score map")
        lesions, count = ndimage.label(reference, _NEIGHBORS)
    rows = [np.zeros((0, 4))]
    hits = [np.zeros((0, 2), np.int64)]
    box = tuple(slice(0, size) for size in scores.shape)
    for level, threshold in enumerate(thresholds):
        inner = bounding_box(scores[box] > threshold)
        if inner is None:
            break
        box = tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, inner, strict=True))
        found, pairs = _parts_above(threshold, scores[box], lesions[box])
        pairs[:, 0] += sum(len(one) for one in rows)
        hits.append(pairs)
        rows.append(np.column_stack([np.full(len(found), level), found]))
    level_, voxels, sums, shared = np.concatenate(rows).T
    return Candidates(
        thresholds=tuple(thresholds),
        level=level_.astype(np.int64),
        scan=np.zeros(len(voxels), np.int64),
        voxels=voxels.astype(np.int64),
        shared=shared.astype(np.int64),
        volume_ml=voxels * voxel_ml,
        mean_score=sums / np.maximum(1, voxels),
        hits=np.concatenate(hits),
        reference_voxels=np.array([np.count_nonzero(lesions)], np.int64),
        lesions=count,
    )


def joined(parts: Iterable[Candidates]) -> Candidates:
    """Put the candidates of several scans, one at least, beside each other. They have the same thresholds."""
    ones = list(parts)
    before = np.cumsum([[0, 0, 0], *([len(one.level), one.lesions, one.scans] for one in ones)], axis=0)
    return Candidates(
        thresholds=ones[0].thresholds,
        level=np.concatenate([one.level for one in ones]),
        scan=np.concatenate([one.scan + start for one, (_, _, start) in zip(ones, before, strict=False)]),
        voxels=np.concatenate([one.voxels for one in ones]),
        shared=np.concatenate([one.shared for one in ones]),
        volume_ml=np.concatenate([one.volume_ml for one in ones]),
        mean_score=np.concatenate([one.mean_score for one in ones]),
        hits=np.concatenate([one.hits + start[:2] for one, start in zip(ones, before, strict=False)]),
        reference_voxels=np.concatenate([one.reference_voxels for one in ones]),
        lesions=int(before[-1, 1]),
    )


def _parts_above(
    threshold: float, scores: NDArray[np.floating], lesions: NDArray[np.integer]
) -> tuple[Float[NDArray[np.float64], "part 3"], Int[NDArray[np.int64], "hit 2"]]:
    """Give voxels, sum of scores and tumor voxels of each part, and which part shares a voxel with which lesion."""
    parts, count = ndimage.label(scores > threshold, _NEIGHBORS)
    inside = parts > 0
    part, lesion = parts[inside].astype(np.int64) - 1, lesions[inside].astype(np.int64) - 1
    tumor = lesion >= 0
    measured = [
        np.bincount(part, minlength=count),
        np.bincount(part, scores[inside].astype(np.float64), minlength=count),
        np.bincount(part[tumor], minlength=count),
    ]
    pairs = np.unique(np.column_stack([part[tumor], lesion[tumor]]), axis=0)
    return np.column_stack(measured), pairs
