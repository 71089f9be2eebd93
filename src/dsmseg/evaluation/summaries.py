"""Mean and standard error over cases, and how the paper prints them (Tables 2 to 5)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True, slots=True)
class Summary:
    """A metric over cases.

    Attributes:
        n: cases that count. mean: None where there are none.
        se: standard error, the sample's standard deviation (ddof 1) / sqrt(n); None below two cases.
    """

    n: int
    mean: float | None
    se: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Summary":
        """Sum up the values of cases; None is a case that is left out."""
        counted = np.array([value for value in values if value is not None], np.float64)
        n = len(counted)
        return cls(
            n,
            float(counted.mean()) if n else None,
            float(counted.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        )

    def text(self, unit: Literal["%", "mm", "lesions"] = "%") -> str:
        """Write mean ± SE as the paper does: shares in %, two decimals, ``88.61±0.65``; "-" where there is no case."""
        if self.mean is None:
            return "-"
        factor = 100 if unit == "%" else 1
        mean = f"{self.mean * factor:.2f}"
        return mean if self.se is None else f"{mean}±{self.se * factor:.2f}"
