"""How well a score ranks tumor voxels above all others: AUROC, and FPR at a TPR of 0.95, in bounded memory.

The state is a table of scores and of how many voxels of either kind have each. What is in the table is measured
exactly, ties included. Where a scan has more different scores than are worth telling apart, those that few voxels share
are rounded toward zero before they enter, to 14 bits of their mantissa: no more than `SHARE` of the tumor voxels, nor
of the others, become equal to each other by that.

The bound that follows. In one scan only what was rounded to the same number is ranked wrongly, as a tie: AUROC is off
by at most ``SHARE / 2``, 2.5e-5, and FPR by at most ``SHARE``. Scans are rounded each for itself, so that a number that
was rounded in one can be compared with its like that was not in another: pooled AUROC is off by at most ``2 SHARE``,
1e-4. Numbers of at most 14 bits (bytes, float16) are never rounded, and those of a map of bytes with a scale never
become equal. Numbers that need float64 may be rounded at four places of their mantissa, which makes the bounds of what
does not fit into a table of a million rows four times as large.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.evaluation.kernels import count_leading, count_next
from dsmseg.evaluation.masks import OUTSIDE, flattened
from dsmseg.resources import cores

SHARE = 5e-5

_LOW = 9  # bits of a float32 below those that are counted first
_BINS = 1 << (32 - _LOW)
_BLOCK = 1 << 18
_LARGE_BLOCK = 1 << 22
_MOST_ROWS = 1 << 20
_MOST_THREADS = 8  # each has counts of its own
_SHIFTS = (38, 29, 21, 13, 5, 0)  # bits of a float64 below those that a table is rounded to, in turn
_SHORT, _SINGLE = "?bBhe", "?bBhHef"  # kinds of numbers with at most 14 bits of mantissa, and at most 23


@dataclass(frozen=True, slots=True, eq=False)
class ScoreCounts:
    """Voxels by score. The states of several scans add up (``a + b``) to the pooled state.

    Attributes:
        scores: in rising order, each once.
        counts: for each score, voxels that are no tumor, and that are.
    """

    scores: Float[NDArray[np.float64], " score"]
    counts: Int[NDArray[np.int64], "score 2"]

    @classmethod
    def empty(cls) -> "ScoreCounts":
        """Give the state of no voxels."""
        return cls(np.zeros(0), np.zeros((0, 2), np.int64))

    @property
    def negatives(self) -> int:
        """Voxels that are no tumor."""
        return int(self.counts[:, 0].sum())

    @property
    def positives(self) -> int:
        """Voxels that are."""
        return int(self.counts[:, 1].sum())

    @property
    def auroc(self) -> float | None:
        """Chance that a tumor voxel scores above another one, ties counting half; None where either kind is missing."""
        if not self.positives or not self.negatives:
            return None
        negatives, positives = self.counts.T.astype(np.float64)
        above = positives.sum() - np.cumsum(positives)
        return float(negatives @ (above + positives / 2) / (positives.sum() * negatives.sum()))

    def fpr_at(self, tpr: float) -> float | None:
        """Share of the other voxels at or above the highest threshold that ``tpr`` of the tumor's voxels reach.

        A voxel that ties with the threshold is above it, as in scikit-learn's roc_curve; nothing is interpolated. None
        where either kind is missing.
        """
        if not self.positives or not self.negatives:
            return None
        above = self.counts[::-1].cumsum(axis=0)
        threshold = int(np.argmax(above[:, 1] / self.positives >= tpr))
        return float(above[threshold, 0] / self.negatives)

    @property
    def fpr95(self) -> float | None:
        """FPR at a TPR of 0.95, see `fpr_at`."""
        return self.fpr_at(0.95)

    def __add__(self, other: "ScoreCounts") -> "ScoreCounts":
        """Add up the voxels of other scans."""
        return _table(np.concatenate([self.scores, other.scores]), np.concatenate([self.counts, other.counts]))


def count_scores(
    scores: NDArray[Any], truth: NDArray[Any], region: NDArray[Any] | None = None, *, threads: int | None = None
) -> ScoreCounts:
    """Count the voxels of a scan by their score.

    Args:
        scores: real numbers of any range, infinity included; the higher, the more like a tumor.
        truth: mask of the tumor, of the same shape.
        region: mask of the voxels that count; None is all.
        threads: None is one a core.

    Raises:
        InputError: NaN in the region, no numbers, no masks, or different shapes.
    """
    scores = np.asarray(scores)
    if scores.dtype.kind not in "biuf":
        raise InputError(f"scores are an array of {scores.dtype}", mend="Give one real number a voxel.")
    flat, kinds = flattened(scores, truth, region)
    threads = min(threads or cores(), _MOST_THREADS, max(1, flat.size // _BLOCK))
    if flat.dtype.char not in _SINGLE and not _are_single(flat):
        return _count_doubles(flat, kinds)
    with ThreadPoolExecutor(threads) as pool:
        return _Counter(flat, kinds, threads, pool).count()


@dataclass(slots=True)
class _Counter:
    """Counts numbers that float32 holds exactly."""

    flat: NDArray[Any]
    kinds: NDArray[np.uint8]
    threads: int
    pool: ThreadPoolExecutor

    def count(self) -> ScoreCounts:
        """Count by the leading bits, then what is in bins that hold too much by all bits."""
        parts = [np.zeros((2, _BINS), np.uint32) for _ in range(self.threads)]
        ranges = list(self.pool.map(self._count_leading, range(self.threads), parts))
        first, end = min(one for one, _ in ranges), max(one for _, one in ranges)
        if first >= end:
            return ScoreCounts.empty()
        counts = np.asarray(np.sum([part[:, first:end] for part in parts], axis=0, dtype=np.int64)).T
        held = np.flatnonzero(counts.any(axis=1))
        counts, bins = counts[held], held + first - _BINS // 2
        heavy = (counts > SHARE * counts.sum(axis=0)).any(axis=1)
        heavy &= self.flat.dtype.char not in _SHORT
        keys = (bins << _LOW) | np.where(bins < 0, (1 << _LOW) - 1, 0)  # what is nearest to zero in its bin
        if heavy.any():
            more_keys, more_counts = self._count_all(bins[heavy])
            keys, counts = np.append(keys[~heavy], more_keys), np.concatenate([counts[~heavy], more_counts])
        return _table(_number(keys), counts)

    def _count_all(self, bins: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count the numbers of some bins by all their bits; give keys and counts."""
        pages = np.full(_BINS, -1, np.int32)
        pages[bins + _BINS // 2] = np.arange(len(bins))
        parts = [np.zeros((2, len(bins), 1 << _LOW), np.uint32) for _ in range(self.threads)]

        def count(thread: int, part: NDArray[np.uint32]) -> None:
            for bits, kinds in self._blocks(thread):
                count_next(bits, kinds, _LOW, pages, part)

        list(self.pool.map(count, range(self.threads), parts))
        counts = np.sum(parts, axis=0, dtype=np.int64).reshape(2, -1).T
        keys = ((bins[:, None] << _LOW) + np.arange(1 << _LOW)).ravel()
        held = counts.any(axis=1)
        return keys[held], counts[held]

    def _blocks(self, thread: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.uint8]]]:
        """Give bits and kinds of the blocks of one thread."""
        for start in range(thread * _BLOCK, self.flat.size, self.threads * _BLOCK):
            block = slice(start, start + _BLOCK)
            yield self.flat[block].astype(np.float32, copy=False).view(np.int32), self.kinds[block]

    def _count_leading(self, thread: int, counts: NDArray[np.uint32]) -> tuple[int, int]:
        first, end = _BINS, 0
        for bits, kinds in self._blocks(thread):
            lowest, highest, nan = count_leading(bits, kinds, _LOW, counts)
            if nan:
                raise _no_number()
            first, end = min(first, lowest), max(end, highest)
        return first, end


def _are_single(flat: NDArray[Any]) -> bool:
    """Tell whether float32 holds all numbers exactly, or NaN, which is looked for later."""
    blocks = (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))
    with np.errstate(over="ignore", invalid="ignore"):
        return all(np.array_equal(block, block.astype(np.float32), equal_nan=True) for block in blocks)


def _count_doubles(flat: NDArray[Any], kinds: NDArray[np.uint8]) -> ScoreCounts:
    """Count numbers that need float64, block by block, by sorting."""
    state = ScoreCounts.empty()
    for start in range(0, flat.size, _LARGE_BLOCK):
        block = slice(start, start + _LARGE_BLOCK)
        inside = kinds[block] < OUTSIDE
        scores, positive = flat[block][inside].astype(np.float64), kinds[block][inside] == 1
        if np.isnan(scores).any():
            raise _no_number()
        state += _table(scores, np.stack([~positive, positive], axis=1).astype(np.int64))
    return state


def _table(scores: NDArray[np.float64], counts: NDArray[np.int64]) -> ScoreCounts:
    """Make a state of scores in any order, which may repeat."""
    order = np.argsort(scores)
    scores, counts = scores[order] + 0.0, counts[order]  # -0 becomes 0
    starts = _starts(scores)
    table = ScoreCounts(scores[starts], np.add.reduceat(counts, starts, axis=0) if len(starts) else counts)
    return table if len(starts) <= _MOST_ROWS else _rounded(table)


def _rounded(table: ScoreCounts) -> ScoreCounts:
    """Round what few voxels share, as `_Counter` does with the voxels of one scan."""
    keys, counts, least = _keys(table.scores), table.counts, SHARE * table.counts.sum(axis=0)
    rows = []
    for shift in _SHIFTS:
        bins = keys >> shift
        starts = _starts(bins)
        sums = np.add.reduceat(counts, starts, axis=0)
        heavy = (sums > least).any(axis=1) & (shift > 0)
        light = starts[~heavy]
        rows.append(((bins[light] << shift) | np.where(bins[light] < 0, (1 << shift) - 1, 0), sums[~heavy]))
        more = np.repeat(heavy, np.diff(starts, append=len(keys)))
        keys, counts = keys[more], counts[more]
        if not len(keys):
            break
    keys, counts = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.argsort(keys)
    return ScoreCounts(_flip(keys[order]).view(np.float64), counts[order])


def _starts(values: NDArray[Any]) -> NDArray[np.intp]:
    """Give where each different value starts in a sorted array."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])


def _keys(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    return _flip(scores.view(np.int64))


def _flip(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Make sortable keys of the bits of float64, or bits of keys."""
    return np.where(bits >= 0, bits, bits ^ np.int64(0x7FFFFFFFFFFFFFFF))


def _number(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give the numbers whose keys as float32 these are."""
    bits = np.where(keys >= 0, keys, keys ^ 0x7FFFFFFF).astype(np.int32)
    return bits.view(np.float32).astype(np.float64)


def _no_number() -> InputError:
    return InputError("a score map holds NaN", mend="Give each voxel a score, or leave such voxels out by a region.")
