"""What an empty reference or an empty prediction means for each metric: one table, used everywhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from dsmseg.errors import InputError


class Presence(StrEnum):
    """Where a structure is."""

    BOTH = "in both"
    MISSED = "in the reference alone"
    SPURIOUS = "in the prediction alone"
    NEITHER = "in neither"

    @classmethod
    def of(cls, *, reference: bool, prediction: bool) -> "Presence":
        """Say where it is, from whether each mask has any voxel."""
        if reference:
            return cls.BOTH if prediction else cls.MISSED
        return cls.SPURIOUS if prediction else cls.NEITHER


class Outcome(StrEnum):
    """What a metric gives."""

    MEASURED = "measured"
    WORST = "worst"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of one structure in one case.

    Attributes:
        name: in files. title: in tables. unit: a share is told in %.
        better: which way.
        worst: what a structure that is missed gets; None is the diagonal of the reference's grid, in mm.
        outcomes: for `Presence.BOTH`, ``MISSED``, ``SPURIOUS`` and ``NEITHER``.
    """

    name: str
    title: str
    unit: Literal["%", "mm", "lesions"]
    better: Literal["higher", "lower"]
    worst: float | None
    outcomes: tuple[Outcome, Outcome, Outcome, Outcome]

    def settle(self, presence: Presence, measure: Callable[[], float | None], diagonal_mm: float) -> float | None:
        """Give the figure of a case, or None where the case is left out of means.

        ``measure`` is called only where the table says so.
        """
        outcome = self.outcomes[list(Presence).index(presence)]
        if outcome is Outcome.LEFT_OUT:
            return None
        if outcome is Outcome.WORST:
            return diagonal_mm if self.worst is None else self.worst
        return measure()


_M, _W, _L = Outcome.MEASURED, Outcome.WORST, Outcome.LEFT_OUT

_ALL = (
    Metric("dsc", "DSC", "%", "higher", 0.0, (_M, _W, _L, _L)),
    Metric("nsd", "NSD", "%", "higher", 0.0, (_M, _W, _L, _L)),
    Metric("hd95_mm", "HD95", "mm", "lower", None, (_M, _W, _L, _L)),
    Metric("lesion_sensitivity", "Sensitivity", "%", "higher", 0.0, (_M, _W, _L, _L)),
    Metric("lesion_precision", "Precision", "%", "higher", 0.0, (_M, _L, _W, _L)),
    Metric("false_lesions", "False lesions", "lesions", "lower", 0.0, (_M, _M, _M, _M)),
    Metric("false_lesions_healthy", "False lesions, healthy", "lesions", "lower", 0.0, (_L, _L, _M, _M)),
    # Of scores: nothing is in a prediction whose scores are all alike, which ranks by chance.
    Metric("auroc", "AUROC", "%", "higher", 0.0, (_M, _M, _L, _L)),
    Metric("fpr95", "FPR95", "%", "lower", 1.0, (_M, _M, _L, _L)),
    Metric("auroc_host", "AUROC, host", "%", "higher", 0.0, (_M, _M, _L, _L)),
    Metric("fpr95_host", "FPR95, host", "%", "lower", 1.0, (_M, _M, _L, _L)),
    Metric("ece", "ECE", "%", "lower", 1.0, (_M, _M, _M, _M)),
)

METRICS: Mapping[str, Metric] = MappingProxyType({one.name: one for one in _ALL})


def metric(name: str) -> Metric:
    """Give the metric of this name.

    Raises:
        InputError: there is none.
    """
    if name not in METRICS:
        raise InputError(f"no metric is called '{name}'", mend=f"There are: {', '.join(METRICS)}.")
    return METRICS[name]
