"""Powers of two that LLVM can vectorize: numba's ``math.exp`` and ``math.expm1`` are calls, one value at a time.

Both functions are compiled without leave to reorder sums: a caller's ``fastmath`` would undo what keeps them exact.
``exp(x)`` is ``exp2(x * LOG2_E)``, and ``expm1`` likewise.
"""

import math
from typing import Any

import numpy as np
from numba import njit

LOG2_E = np.float32(1 / math.log(2))

_LOWEST = np.float32(-126)
_HIGHEST = np.float32(127)
_ONE = np.float32(1)
_ROUNDING = np.float32(1.5 * 2**23)  # a float32 of this size has no bits left for a fraction
_EXPONENT_BIAS = np.int32(127)
_MANTISSA_BITS = np.int32(23)

# (2^f - 1) / f for |f| <= 1/2, by least squares weighted towards the largest relative error, which is 1.1e-8.
_Q0 = np.float32(0.6931471879)
_Q1 = np.float32(0.2402264979)
_Q2 = np.float32(0.0555035743)
_Q3 = np.float32(0.0096182375)
_Q4 = np.float32(0.0013390736)
_Q5 = np.float32(0.0001540351)


@njit(fastmath={"contract"}, forceinline=True)
def exp2(power: Any) -> Any:
    """Give 2^power in float32, relative error 1.2e-7; outside -126..127 the value at that end. NaN stays NaN."""
    scale, excess = _parts(power)
    return scale + excess


@njit(fastmath={"contract"}, forceinline=True)
def exp2m1(power: Any) -> Any:
    """Give 2^power - 1 in float32, relative error 2e-7 however small ``power``; range and NaN as for ``exp2``."""
    scale, excess = _parts(power)
    return (scale - _ONE) + excess


@njit(fastmath={"contract"}, forceinline=True)
def _parts(power: Any) -> Any:
    """Give 2^n and 2^power - 2^n for the whole number n nearest to ``power``."""
    power = _LOWEST if power < _LOWEST else power
    power = _HIGHEST if power > _HIGHEST else power
    shifted = np.float32(power + _ROUNDING)  # its lowest bits are n
    f = power - np.float32(shifted - _ROUNDING)
    scale = np.int32((shifted.view(np.int32) + _EXPONENT_BIAS) << _MANTISSA_BITS).view(np.float32)
    q = _Q0 + f * (_Q1 + f * (_Q2 + f * (_Q3 + f * (_Q4 + f * _Q5))))
    return scale, scale * (f * q)
