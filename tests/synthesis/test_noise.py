"""Chance: the same on every machine, fixed in space."""

import hashlib

import numpy as np

from dsmseg.synthesis.noise import generator, smooth_noise, white_noise

SPACING, ORIGIN = (2.0, 1.5, 3.0), (-30.0, 12.0, 400.0)


def test_noise_is_the_same_bits_on_every_machine() -> None:
    smooth = smooth_noise((9, 8, 7), SPACING, ORIGIN, 11.0, 42)
    white = white_noise((5, 4, 3), (2, 0, 9), 42)
    digests = [hashlib.sha256(field.tobytes()).hexdigest()[:16] for field in (smooth, white)]
    assert digests == ["dc9f354143cb28e9", "bdc5464ec066f2c1"]


def test_a_part_of_a_grid_sees_the_field_of_the_whole() -> None:
    whole = smooth_noise((30, 28, 26), SPACING, ORIGIN, (9.0, 14.0, 20.0), 3)
    origin = [start + step * first for start, step, first in zip(ORIGIN, SPACING, (4, 6, 8), strict=True)]
    part = smooth_noise((10, 11, 12), SPACING, origin, (9.0, 14.0, 20.0), 3)
    np.testing.assert_array_equal(part, whole[4:14, 6:17, 8:20])
    noise = white_noise((30, 28, 26), (0, 0, 0), 3)
    np.testing.assert_array_equal(white_noise((10, 11, 12), (4, 6, 8), 3), noise[4:14, 6:17, 8:20])


def test_noise_has_mean_0_and_deviation_1() -> None:
    white = white_noise((60, 60, 60), (0, 0, 0), 1)
    smooth = smooth_noise((60, 60, 60), (3.0,) * 3, (0.0,) * 3, 7.0, 1)
    assert abs(white.mean()) < 0.01
    assert abs(white.std() - 1) < 0.01
    assert abs(smooth.mean()) < 0.05
    assert abs(smooth.std() - 1) < 0.05
    neighbors = np.corrcoef(white[1:].ravel(), white[:-1].ravel())[0, 1]
    assert abs(neighbors) < 0.02
    assert np.corrcoef(smooth[1:].ravel(), smooth[:-1].ravel())[0, 1] > 0.7


def test_other_keys_and_seeds_give_other_chance() -> None:
    assert generator(1, "liver").random() == generator(1, "liver").random()
    assert len({generator(1, "liver").random(), generator(1, "spleen").random(), generator(11, "liver").random()}) == 3
    first, other = (smooth_noise((20,) * 3, (5.0,) * 3, (0.0,) * 3, 9.0, seed) for seed in (1, 2))
    assert abs(np.corrcoef(first.ravel(), other.ravel())[0, 1]) < 0.2
