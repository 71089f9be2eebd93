"""Names and ids of what a phantom is made of: TotalSegmentator's structures, and those that it lacks."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from dsmseg.synthesis.anatomy import phantom_anatomy
from dsmseg.synthesis.phantom.canvas import replacing


@cache
def id_of(name: str) -> int:
    """Give the id of a structure."""
    return phantom_anatomy().structures.index(name)


@cache
def over(*names: str) -> NDArray[np.bool_]:
    """Give the table of what may be replaced: these structures."""
    return replacing(id_of(name) for name in names)


@cache
def over_all_but(*names: str) -> NDArray[np.bool_]:
    """Give the table of what may be replaced: everything but air outside the body and these structures."""
    return ~replacing([0, *(id_of(name) for name in names)])
