"""Draws of numbers and directions that give the same bits on every machine: sums, products and roots alone."""

import math

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray

_SQUARINGS = 20


def uniform(random: Generator, low: float, high: float) -> float:
    """Draw a number between ``low`` and ``high``."""
    return low + (high - low) * float(random.random())


def normal(random: Generator) -> float:
    """Draw a number of mean 0 and deviation 1, nearly normal; its tails end at 3.5."""
    return (sum(float(random.random()) for _ in range(4)) - 2.0) * math.sqrt(3.0)


def exponential(x: float) -> float:
    """Give e to the power of ``x``, within a hundred-thousandth for moderate ``x``."""
    power = 1.0 + x / (1 << _SQUARINGS)
    for _ in range(_SQUARINGS):
        power *= power
    return power


def log_normal(random: Generator, median: float, spread: float, low: float, high: float) -> float:
    """Draw a log-normal number between ``low`` and ``high``. ``spread`` is the deviation of its logarithm."""
    return min(max(median * exponential(spread * normal(random)), low), high)


def log_even(random: Generator, low: float, high: float) -> float:
    """Draw a number between ``low`` and ``high``, evenly in its logarithm."""
    value, ratio, bits = low, high / low, int(random.integers(1 << _SQUARINGS))
    for place in range(_SQUARINGS):
        ratio = math.sqrt(ratio)
        if bits >> place & 1:
            value *= ratio
    return value


def direction(random: Generator) -> Float[NDArray[np.float64], "3"]:
    """Draw a unit vector."""
    while True:
        vector = np.array([2.0 * float(random.random()) - 1.0 for _ in range(3)])
        length = length_of(vector)
        if 0.1 < length <= 1.0:
            return vector / length


def rotation(random: Generator) -> Float[NDArray[np.float64], "3 3"]:
    """Draw three unit vectors at right angles, as rows."""
    first = direction(random)
    while True:
        other = direction(random)
        second = cross(first, other)
        length = length_of(second)
        if length > 0.2:
            second = second / length
            return np.stack([first, second, cross(first, second)])


def length_of(vector: Float[NDArray[np.float64], "3"]) -> float:
    """Give the length of a vector."""
    x, y, z = (float(part) for part in vector)
    return math.sqrt(x * x + y * y + z * z)


def cross(a: Float[NDArray[np.float64], "3"], b: Float[NDArray[np.float64], "3"]) -> Float[NDArray[np.float64], "3"]:
    """Give the cross product of two vectors."""
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
