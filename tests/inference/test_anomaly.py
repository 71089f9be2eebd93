"""The anomaly of a scan: each voxel is compared with the organ that it is in, and with no other."""

import numpy as np
import pytest
import torch

from dsmseg.inference.anomaly import anomaly_map
from dsmseg.inference.framing import Frame
from dsmseg.inference.postprocessing import Claims
from dsmseg.inference.soft_masks import SoftMasks
from dsmseg.taxonomy import find
from dsmseg.volume import Grid

SHAPE = (40, 36, 30)
BLOCK = slice(6, 24), slice(6, 24), slice(6, 24)
SPOT = slice(13, 17), slice(13, 17), slice(13, 17)


def noise(shape=SHAPE, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 8, shape).astype(np.float32)


def marked(*boxes, shape=SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    for box in boxes:
        mask[box] = True
    return mask


def anomaly(hu, masks, spacing=3.0):
    """Give the map and its grid for HU and masks of organs by name, in a body that ends four voxels from the rim."""
    organs = [find(name) for name in masks]
    claims = Claims(organs, hu.shape[::-1])
    claims.add(SoftMasks.of(torch.from_numpy(np.stack(list(masks.values())).astype(np.float32))), 0)
    body = marked((slice(4, -4), slice(4, -4), slice(None)), shape=hu.shape)
    return anomaly_map(Frame(hu, body, Grid(hu.shape, np.diag([spacing, spacing, spacing, 1.0]))), claims, organs)


def a_liver_with_a_spot(spot_hu=40.0):
    hu = noise() - 100
    hu[BLOCK] += 200
    hu[SPOT] += spot_hu - 100
    return hu, marked(BLOCK) & ~marked(SPOT)


def test_a_spot_that_no_organ_claims_is_anomalous_and_the_organ_around_and_all_else_is_not():
    hu, liver = a_liver_with_a_spot()
    score, grid = anomaly(hu, {"Liver": liver})
    assert grid.shape == score.shape == SHAPE
    assert score[SPOT].min() > 0.8
    assert score[liver].mean() < 0.1
    assert not score[~marked(BLOCK)].any()


@pytest.mark.parametrize("name", ["Portal Vein and Splenic Vein", "Stomach", "Gall Bladder"])
def test_a_vessel_or_a_hollow_organ_explains_what_it_claims(name):
    hu, liver = a_liver_with_a_spot()
    score, _ = anomaly(hu, {"Liver": liver, name: marked(SPOT)})
    assert not score[SPOT].any()


def test_a_voxel_in_two_hulls_is_compared_with_the_organ_that_claims_it_else_with_the_nearest():
    hu = noise() - 100
    hu[BLOCK] += 200
    beside = slice(26, 34), slice(6, 24), slice(6, 24)
    hu[beside] += 150  # a spleen of its own density
    hu[24:26, 6:24, 6:24] += 150
    liver, spleen = marked(BLOCK), marked(beside)
    score, _ = anomaly(hu, {"Spleen": spleen, "Liver": liver})
    assert score[spleen].mean() < 0.1
    assert score[liver].mean() < 0.1
    bridged, _ = anomaly(hu, {"Spleen": spleen | marked((slice(24, 26), *BLOCK[1:])), "Liver": liver})
    assert bridged[24:26, 6:24, 6:24].mean() < 0.1


def test_an_organ_that_is_mostly_tumor_is_told_by_the_other_of_the_pair():
    right, left = marked((slice(22, 34), *BLOCK[1:])), marked((slice(5, 17), *BLOCK[1:]))
    hu = noise() - 100
    hu[right | left] += 250
    hu[24:34, 8:22, 6:22] -= 100
    score, _ = anomaly(hu, {"Right Kidney": right, "Left Kidney": left})
    assert score[26:32, 10:20, 8:20].min() > 0.8
    assert score[left].mean() < 0.1


def test_a_finer_grid_gives_the_map_at_3_mm_in_the_same_place():
    hu, liver = a_liver_with_a_spot()
    fine = [np.kron(one, np.ones((2, 2, 2))) for one in (hu, liver.astype(float))]
    score, grid = anomaly(fine[0].astype(np.float32), {"Liver": fine[1] > 0}, spacing=1.5)
    expected, _ = anomaly(hu, {"Liver": liver})
    assert grid.shape == SHAPE
    np.testing.assert_allclose(grid.affine @ [0, 0, 0, 1], [0.75, 0.75, 0.75, 1])
    np.testing.assert_allclose(score[6:24, 6:24], expected[6:24, 6:24], atol=1e-4)


@pytest.mark.parametrize("masks", [{}, {"Liver": np.zeros(SHAPE, dtype=bool)}, {"Liver": marked((slice(9, 11),) * 3)}])
def test_without_an_organ_that_is_large_enough_nothing_is_anomalous(masks):
    masks = masks or {"Spleen": np.zeros(SHAPE, dtype=bool)}
    assert not anomaly(noise(), masks)[0].any()
