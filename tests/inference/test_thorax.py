"""What takes the place of lung is told by the other side; heart, bones and a healthy chest are not taken for it."""

import numpy as np
import pytest

from dsmseg.inference.thorax import in_place_of_lung

SPACING = (3.0, 3.0, 3.0)
SHAPE = (90, 64, 70)


def ellipsoid(center, radii) -> np.ndarray:
    grid = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return sum(((axis - place) / radius) ** 2 for axis, place, radius in zip(grid, center, radii, strict=True)) <= 1


def a_chest(shift: int = 0):
    """Give HU, body and both lungs; the heart takes a bite of the left one. ``shift`` moves all of it to the right."""
    middle = 44 + shift
    body = np.broadcast_to(ellipsoid((middle, 32, 35), (38, 28, 1e6)), SHAPE).copy()
    right, left = (ellipsoid((middle + side * 19, 32, 35), (15, 22, 28)) for side in (1, -1))
    heart = ellipsoid((middle - 12, 42, 25), (14, 11, 14))
    left &= ~heart
    right &= ~heart
    spine = np.zeros(SHAPE, dtype=bool)
    spine[middle - 4 : middle + 5, 6:14] = True
    hu = np.where(body, 40.0, -1000.0)
    hu[right | left] = -850
    hu[spine] = 400
    return hu.astype(np.float32), body, right, left, heart, spine


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("shift", [0, 4])
def test_a_mass_at_the_chest_wall_is_in_the_place_of_lung(side, shift):
    hu, body, right, left, _, _ = a_chest(shift)
    mass = ellipsoid((44 + shift + side * 30, 16, 35), (10, 10, 10)) & (right | left)
    hu[mass] = 45
    place = in_place_of_lung(hu, body, right & ~mass, left & ~mass, SPACING)
    assert (place[mass] > 0.1).mean() > 0.9
    assert place[mass].mean() > 0.7
    assert (place[body & ~mass] > 0.1).mean() < 0.01


def test_nothing_of_a_healthy_chest_is_in_the_place_of_lung():
    hu, body, right, left, heart, spine = a_chest()
    place = in_place_of_lung(hu, body, right, left, SPACING)
    assert (place[body] > 0.1).mean() < 0.01
    assert not place[heart & (hu > 0)][::7].mean() > 0.02
    assert not place[spine].any()


def test_what_is_full_of_contrast_agent_is_no_mass():
    hu, body, right, left, _, _ = a_chest()
    vessel = ellipsoid((74, 18, 35), (8, 8, 8)) & right
    hu[vessel] = 300
    assert in_place_of_lung(hu, body, right & ~vessel, left, SPACING)[vessel].mean() < 0.05


@pytest.mark.parametrize("slices", [0, 10])
def test_of_no_lung_or_of_a_few_slices_no_other_side_tells(slices):
    hu, body, right, left, _, _ = a_chest()
    left[:] = False
    right[..., :30] = right[..., 30 + slices :] = False
    assert not in_place_of_lung(hu, body, right, left, SPACING).any()
