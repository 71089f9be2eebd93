"""What verification finds: one line each, with the case and how to mend it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from dsmseg.datasets.layout import case_order
from dsmseg.datasets.loading import GridMismatchError
from dsmseg.volume import IntensityError

Check = Literal[
    "count",  # published cases that are not there
    "layout",  # an image without labels, labels without an image, a case that is there twice, a file that is missing
    "withdrawn",  # a case that its makers took back
    "unreadable",  # a file that is damaged or no CT
    "grid",  # labels that do not lie on their image
    "spacing",  # a header without a real voxel size
    "labels",  # ids that the data set does not have
    "empty",  # labels without a voxel
    "intensities",  # not in HU
    "orientation",  # mirrored
    "duplicate",  # the same scan twice
]


@dataclass(frozen=True, slots=True)
class Finding:
    """``what`` was found in a ``case`` of a ``dataset`` (None: in the data set as a whole), and how to ``mend`` it."""

    dataset: str
    case: str | None
    check: Check
    what: str
    mend: str

    @property
    def line(self) -> str:
        """All of it in one line."""
        place = self.dataset if self.case is None else f"{self.dataset} {self.case}"
        return " ".join(f"{place}: {self.check}: {self.what}. {self.mend}".split())


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings: those of the data set as a whole first, then by case, whichever worker was the first to tell."""
    return sorted(findings, key=lambda one: (one.case is not None, case_order(one.case or ""), one.check))


def from_error(dataset: str, case: str, error: Exception) -> Finding:
    """Make a finding of what kept a file from being used."""
    check: Check = "unreadable"
    if isinstance(error, GridMismatchError):
        check = "grid"
    elif isinstance(error, IntensityError):
        check = "intensities"
    what, mend = getattr(error, "what", str(error)), getattr(error, "mend", "Look at the file.")
    where = getattr(error, "where", None)
    return Finding(dataset, case, check, what if where is None else f"{where} {what}", mend)
