"""What a file holds, as its reader found it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """An array (I, J, K) in the file's order of axes, its affine (voxel -> mm RAS), and how numbers become values.

    A voxel's value is ``slope * number + intercept``. Each reader hands over an array that nobody else holds.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    slope: float = 1.0
    intercept: float = 0.0
