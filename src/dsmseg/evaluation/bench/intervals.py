"""Intervals that know both kinds of chance: which cases were tested, and which seed a training had.

Cases and seeds are drawn with replacement together (a two-way bootstrap; Owen 2007, "The pigeonhole bootstrap"). A
figure of one draw is a mean over the drawn seeds of the figure over the drawn cases. Two rows are compared in the same
draws: the same cases, and the same seeds of both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from dsmseg.evaluation.bench.detection import Detection

RESAMPLES = 4000
FALSE_PER_SCAN = 1.0  # at which sensitivity is told, as challenges of nodules do

_EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Draws:
    """How often each case and each seed is drawn; the first draw is all of them once."""

    cases: Float[NDArray[np.float64], "draw case"]
    seeds: Float[NDArray[np.float64], "draw seed"]

    @classmethod
    def of(cls, cases: int, seeds: int, resamples: int = RESAMPLES) -> Self:
        """Draw; the same numbers give the same draws."""
        chance = np.random.default_rng(0)
        drawn = [
            np.vstack([np.ones(count), chance.multinomial(count, [1 / count] * count, resamples)])
            for count in (cases, seeds)
        ]
        return cls(drawn[0], drawn[1])

    def over_seeds(self, by_seed: Float[NDArray[np.float64], "draw seed"]) -> Float[NDArray[np.float64], " draw"]:
        """Average what each draw of cases gives a seed over the drawn seeds; NaN is a seed that has no figure."""
        known = np.isfinite(by_seed) * self.seeds
        with np.errstate(invalid="ignore"):
            mean: NDArray[np.float64] = np.where(known > 0, by_seed, 0.0) * known
            return np.asarray(mean.sum(axis=1) / known.sum(axis=1))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure and its 95 % interval over cases and seeds. low, high: None where fewer than two cases count."""

    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, draws: Float[NDArray[np.float64], " draw"], cases: int) -> Self:
        """Sum up draws, the first of which is the figure itself."""
        value = float(draws[0]) if np.isfinite(draws[0]) else None
        rest = draws[1:][np.isfinite(draws[1:])]
        if value is None or cases < 2 or not len(rest):
            return cls(value, None, None)
        low, high = (float(one) for one in np.percentile(rest, (2.5, 97.5)))
        return cls(value, low, high)


def means_by_seed(
    values: Float[NDArray[np.float64], "seed case"], draws: Draws
) -> Float[NDArray[np.float64], "draw seed"]:
    """Give a figure's mean over the drawn cases, for each seed; NaN is a case that has no figure."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        sums = draws.cases @ np.where(known, values, 0.0).T
        return np.asarray(sums / (draws.cases @ known.T.astype(np.float64)))


def sensitivities_by_seed(
    detections: Sequence[Sequence[Detection | None]], draws: Draws, false_per_scan: float = FALSE_PER_SCAN
) -> Float[NDArray[np.float64], "draw seed"]:
    """Give the largest share of lesions that a threshold finds with so few false ones a scan, over the drawn cases.

    It is 0 where every threshold leaves more, and NaN where there is no lesion.

    Args:
        detections: for each seed, those of the cases in order; None where a case was not scored.
        draws: of the cases.
        false_per_scan: at most.
    """
    shares = []
    for of_seed in detections:
        levels = max((len(one.false) for one in of_seed if one is not None), default=1)
        none = Detection([], [[]] * levels, [0] * levels)
        ones = [none if one is None else one for one in of_seed]
        found = draws.cases @ np.array([[sum(level) for level in one.found] for one in ones], np.float64)
        false = draws.cases @ np.array([one.false for one in ones], np.float64)
        lesions = draws.cases @ np.array([len(one.diameters_mm) for one in ones], np.float64)
        scans = draws.cases @ np.array([one is not None for one in of_seed], np.float64)
        allowed = false <= false_per_scan * scans[:, None] + _EXACT
        best = np.where(allowed, found, 0.0).max(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares.append(np.where(lesions > 0, best / lesions, np.nan))
    return np.stack(shares, axis=1)
