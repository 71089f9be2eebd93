"""The vectorized powers of two, over the whole range of float32."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from dsmseg.model.kernels.fast_math import LOG2_E, exp2, exp2m1


@njit(fastmath=True)
def all_of(powers, exponentials, differences):
    for place in range(powers.size):
        exponentials[place] = exp2(powers[place])
        differences[place] = exp2m1(powers[place])


def powers_of_two(powers) -> tuple[np.ndarray, np.ndarray]:
    """Give 2^p and 2^p - 1 as a vectorized caller with every freedom of fastmath gets them."""
    powers = np.asarray(powers, np.float32)
    results = np.empty_like(powers), np.empty_like(powers)
    all_of(powers, *results)
    return results


def test_both_are_exact_to_float32_over_the_whole_range() -> None:
    powers = np.concatenate([np.linspace(-126, 127, 500_001), np.linspace(-2, 2, 500_001)]).astype(np.float32)
    exponentials, differences = powers_of_two(powers)
    exact = np.exp2(powers.astype(np.float64))
    np.testing.assert_allclose(exponentials, exact, rtol=1.2e-7)
    np.testing.assert_allclose(differences, np.expm1(powers.astype(np.float64) * np.log(2)), rtol=2e-7)


@given(st.floats(-30, 0), st.booleans())
def test_a_tiny_power_loses_no_digits_of_the_difference(exponent: float, negative: bool) -> None:
    power = np.float32(10.0**exponent * (-1 if negative else 1))
    _, differences = powers_of_two([power] * 20)
    np.testing.assert_allclose(differences, np.expm1(np.float64(power) * np.log(2)), rtol=2e-7)


@given(st.integers(-126, 127))
def test_whole_powers_are_exact(power: int) -> None:
    exponentials, differences = powers_of_two([power] * 17)
    assert np.all(exponentials == np.float32(2.0**power))
    assert np.all(differences == np.float32(2.0**power) - np.float32(1))


@pytest.mark.parametrize(("power", "end"), [(-126.5, -126), (-1e30, -126), (-np.inf, -126), (128, 127), (np.inf, 127)])
def test_beyond_the_range_the_value_at_its_end_holds(power: float, end: int) -> None:
    exponentials, differences = powers_of_two([power] * 17)
    assert np.all(exponentials == np.float32(2.0**end))
    assert np.all(differences == np.float32(2.0**end) - np.float32(1))


def test_a_missing_value_stays_missing() -> None:
    exponentials, differences = powers_of_two([np.nan, 1.0])
    np.testing.assert_array_equal(np.isnan(exponentials), [True, False])
    np.testing.assert_array_equal(np.isnan(differences), [True, False])


def test_the_natural_exponential_is_a_power_of_two() -> None:
    exponentials, _ = powers_of_two([np.float32(3) * LOG2_E])
    assert exponentials[0] == pytest.approx(np.exp(3), rel=1e-6)
