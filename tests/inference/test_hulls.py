"""Hulls and bounded distances against scipy's exact distances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dsmseg.inference.hulls import box_around, closed_hull, distance_within

SPACINGS = st.sampled_from([(3.0, 3.0, 3.0), (0.8, 0.8, 5.0), (2.0, 1.0, 1.5)])


def random_mask(seed: int, share: float = 0.02) -> np.ndarray:
    mask = np.random.default_rng(seed).random((14, 11, 9)) < share
    mask[7, 5, 4] = True
    return mask


@settings(max_examples=25)
@given(seed=st.integers(0, 999), spacing=SPACINGS, reach=st.floats(0, 15))
def test_the_distance_is_exact_within_its_reach_and_infinite_beyond(seed, spacing, reach):
    mask = random_mask(seed)
    exact = ndimage.distance_transform_edt(~mask, sampling=spacing)
    found = distance_within(mask, spacing, reach)
    sure = np.abs(exact - reach) > 0.01  # rounding decides at the reach itself
    np.testing.assert_array_equal(np.isfinite(found)[sure], (exact <= reach)[sure])
    near = np.isfinite(found)
    np.testing.assert_allclose(found[near], exact[near], rtol=1e-5, atol=1e-5)


@settings(max_examples=25)
@given(seed=st.integers(0, 999), spacing=SPACINGS)
def test_a_hull_is_the_closing_by_a_ball_with_the_holes_of_axial_slices_filled(seed, spacing):
    mask, radius = random_mask(seed), 6.1
    wide = np.pad(mask, 16)
    dilated = ndimage.distance_transform_edt(~wide, sampling=spacing) <= radius
    closed = (ndimage.distance_transform_edt(dilated, sampling=spacing) > radius)[16:-16, 16:-16, 16:-16] | mask
    filled = np.stack([ndimage.binary_fill_holes(one) for one in np.moveaxis(closed, 2, 0)], axis=2)
    hull = closed_hull(mask, spacing, radius)
    assert np.array_equal(hull.inside, filled)
    assert hull.inside[mask].all()
    assert not hull.distance[mask].any()


@pytest.mark.parametrize(("width", "inside"), [(3, True), (6, True), (12, False)])
def test_a_notch_is_in_the_hull_if_it_is_narrower_than_twice_the_radius(width, inside):
    mask = np.zeros((40, 30, 9), dtype=bool)
    mask[5:35, 5:25] = True
    notch = slice(20 - width // 2, 20 - width // 2 + width)
    mask[notch, 15:25] = False
    hull = closed_hull(mask, (3.0, 3.0, 3.0), 12.0).inside
    assert bool(hull[20, 20, 4]) == inside


def test_a_box_has_its_margin_in_mm_and_ends_with_the_array():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[8:10, 1, 18] = True
    assert box_around(mask, (3.0, 2.0, 1.0), 6.0) == (slice(6, 12), slice(0, 5), slice(12, 20))
    assert box_around(np.zeros_like(mask), (3.0, 2.0, 1.0), 6.0) is None
