"""Where voxels count."""

import numpy as np
import pytest
from scipy import ndimage
from shapes import ball, blob, cube

from dsmseg.evaluation.regions import body_region, dilated
from dsmseg.volume import Volume


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.9, 5.0), (4.0, 3.0, 12.0)])
def test_dilation_is_measured_in_mm_along_each_axis(spacing) -> None:
    mask = cube((40, 40, 12), (15, 20), (0, 4), (5, 6))
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing) <= 10
    assert np.array_equal(dilated(mask, spacing), expected)


def test_dilation_of_nothing_and_of_everything() -> None:
    assert not dilated(np.zeros((5, 5, 5), bool), (1, 1, 1)).any()
    assert dilated(np.ones((5, 5, 5), bool), (1, 1, 1)).all()
    mask = blob(0)
    assert (dilated(mask, (1, 1, 1)) >= mask).all()


def test_the_body_is_found_on_the_scans_own_grid() -> None:
    body = ball((60, 60, 30), (30, 30, 15), 24, (1.5, 1.5, 3.0))
    scan = Volume.from_own(np.where(body, 40, -1000).astype(np.float32), np.diag([1.5, 1.5, 3.0, 1.0]))
    found = body_region(scan)
    assert (found & body).sum() / (found | body).sum() > 0.9


def test_where_nothing_is_a_body_every_voxel_counts() -> None:
    scan = Volume.from_own(np.full((10, 10, 10), -1000, np.float32), np.eye(4))
    assert body_region(scan).all()
