"""How unlike its own center an organ looks: tumors are, the rest of the organ and its surroundings are not."""

import numpy as np
import pytest

from dsmseg.inference.deviation import host_deviation

SPACING = (3.0, 3.0, 3.0)


def ball(shape, center, radius_mm, spacing=SPACING) -> np.ndarray:
    """Mark a ball; the center is in mm from the middle of the array."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return sum((axis - place) ** 2 for axis, place in zip((x, y, z), center, strict=True)) <= radius_mm**2


def an_organ(*, tumor_hu, organ_hu=100.0, around_hu=-90.0, noise=10.0, shape=(40, 40, 34), spacing=SPACING):
    """Give HU of a ball with a ball of 9 mm in it, the organ with its tumor, and the tumor."""
    organ, tumor = ball(shape, (0, 0, 0), 40, spacing), ball(shape, (9, 3, 0), 9, spacing)
    hu = np.where(tumor, tumor_hu, np.where(organ, organ_hu, around_hu))
    hu = hu + np.random.default_rng(0).normal(0, noise, shape)
    return hu.astype(np.float32), organ, tumor


@pytest.mark.parametrize("tumor_hu", [40.0, 160.0])
@pytest.mark.parametrize("with_tumor", [True, False])
def test_a_dark_or_bright_tumor_stands_out_whether_or_not_the_mask_of_its_organ_has_it(tumor_hu, with_tumor):
    hu, organ, tumor = an_organ(tumor_hu=tumor_hu)
    score = host_deviation(hu, organ if with_tumor else organ & ~tumor, SPACING)
    rest = organ & ~ball(organ.shape, (9, 3, 0), 18)
    assert score[tumor].mean() > 0.8
    assert score[rest].mean() < 0.1
    assert 0 <= score.min() <= score.max() <= 1
    assert not score[~organ].any()


def test_an_organ_without_a_tumor_does_not_stand_out_at_its_surface_either():
    hu, organ, _ = an_organ(tumor_hu=100.0)
    assert host_deviation(hu, organ, SPACING).max() < 0.9
    assert host_deviation(hu, organ, SPACING)[organ].mean() < 0.08


@pytest.mark.parametrize("offset", [-30.0, 50.0])
def test_another_phase_of_the_contrast_agent_changes_nothing(offset):
    hu, organ, _ = an_organ(tumor_hu=60.0)
    np.testing.assert_allclose(
        host_deviation(hu + np.float32(offset), organ, SPACING), host_deviation(hu, organ, SPACING), atol=0.02
    )


@pytest.mark.parametrize("content_hu", [-100.0, -900.0, 900.0])
def test_fat_gas_and_bone_in_the_hull_of_an_organ_are_no_tumors(content_hu):
    hu, organ, hole = an_organ(tumor_hu=content_hu)
    assert host_deviation(hu, organ & ~hole, SPACING)[hole].mean() < 0.2


def test_a_nodule_stands_out_in_a_lung():
    hu, lung, nodule = an_organ(tumor_hu=20.0, organ_hu=-850.0, around_hu=40.0, noise=30.0)
    score = host_deviation(hu, lung & ~nodule, SPACING)
    assert score[nodule].min() > 0.9
    assert score[lung & ~ball(lung.shape, (9, 3, 0), 18)].mean() < 0.1


def test_thicker_slices_tell_the_same():
    for spacing, shape in ((SPACING, (40, 40, 34)), ((1.5, 1.5, 5.0), (80, 80, 21))):
        hu, organ, tumor = an_organ(tumor_hu=40.0, shape=shape, spacing=spacing)
        score = host_deviation(hu, organ, spacing)
        assert score[tumor].mean() > 0.75
        assert score[organ & ~ball(shape, (9, 3, 0), 18, spacing)].mean() < 0.1


def test_without_a_host_nothing_deviates():
    hu, organ, _ = an_organ(tumor_hu=40.0)
    assert not host_deviation(hu, np.zeros_like(organ), SPACING).any()
