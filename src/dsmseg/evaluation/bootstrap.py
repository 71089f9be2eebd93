"""Whether one method is better than another on the same cases: the paired bootstrap (Efron and Tibshirani, 1993)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError

RESAMPLES = 10_000
_AT_ONCE = 1_000_000  # numbers drawn at a time


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """How far the first method is above the second.

    Attributes:
        n: cases that both have a figure for. difference: mean of first - second.
        low, high: 95 % confidence interval, percentiles of the resampled means.
        p: two-sided: how often resampled differences, moved to a mean of 0, are as far off it as the one found.
    """

    n: int
    difference: float
    low: float
    high: float
    p: float


def paired_bootstrap(
    first: Sequence[float | None], second: Sequence[float | None], *, seed: int = 0, resamples: int = RESAMPLES
) -> PairedDifference:
    """Compare two methods over cases, drawn with replacement.

    Args:
        first, second: a figure a case, in the same order; a case that either has none for (None) is left out.
        seed: the same gives the same result. resamples: how many.

    Raises:
        InputError: different numbers of cases, or fewer than two that both have a figure for.
    """
    if len(first) != len(second):
        raise InputError(
            f"one method has {len(first)} cases, the other {len(second)}",
            mend="Give both for the same cases, in order.",
        )
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        raise InputError(f"{len(pairs)} cases have figures of both", mend="Give at least two: one has no spread.")
    differences = np.array([a - b for a, b in pairs])
    found = float(differences.mean())
    means = _resampled_means(differences, seed, resamples)
    low, high = (float(one) for one in np.percentile(means, (2.5, 97.5)))
    rounding = 1e-12 * max(1.0, abs(found))
    as_far = int((np.abs(means - found) >= abs(found) - rounding).sum())
    return PairedDifference(len(pairs), found, low, high, (as_far + 1) / (resamples + 1))


def mean_interval(
    values: Sequence[float | None], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Give the 95 % confidence interval of a mean over cases, or None below two of them."""
    counted = np.array([value for value in values if value is not None], np.float64)
    if len(counted) < 2:
        return None
    low, high = np.percentile(_resampled_means(counted, seed, resamples), (2.5, 97.5))
    return float(low), float(high)


def _resampled_means(values: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    chance = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // len(values))
    parts = [
        values[chance.integers(len(values), size=(min(step, resamples - start), len(values)))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)
