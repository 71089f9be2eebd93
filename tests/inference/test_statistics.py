"""Figures agree with what the arrays hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.inference import statistics
from dsmseg.inference.statistics import LesionScores, class_rows, find_lesions
from dsmseg.taxonomy import ORGANS, TUMORS, find
from dsmseg.volume import Grid

LIVER = find("Liver")
TUMOR = find("Liver Tumor")


@settings(deadline=None)
@given(seed=st.integers(0, 99), in_fortran_order=st.booleans())
def test_rows_equal_plain_numpy(seed, in_fortran_order):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, (6, 7, 8), dtype=np.uint8)
    hu = generator.normal(50, 30, labels.shape).astype(np.float32)
    order = "F" if in_fortran_order else "C"
    rows = class_rows(np.asarray(labels, order=order), np.asarray(hu, order=order), ORGANS[:5], 0.5)
    for row in rows[:3]:
        values = hu[labels == row["id"]].astype(float)
        assert row["voxels"] == values.size
        assert row["volume_ml"] == pytest.approx(values.size * 0.5)
        assert row["mean_hu"] == pytest.approx(values.mean(), abs=0.006)
        assert row["sd_hu"] == pytest.approx(values.std(), abs=0.006)
    assert [row["name"] for row in rows] == [organ.name for organ in ORGANS[:5]]


def test_slabs_do_not_show(monkeypatch):
    labels = np.random.default_rng(0).integers(0, 4, (6, 7, 8), dtype=np.uint8)
    hu = labels * 10.0
    whole = class_rows(labels, hu, ORGANS, 1)
    monkeypatch.setattr(statistics, "_SLAB_VOXELS", 100)
    assert class_rows(labels, hu, ORGANS, 1) == whole


def test_an_absent_class_has_no_volume_and_no_density():
    row = class_rows(np.zeros((3, 3, 3), dtype=np.uint8), np.zeros((3, 3, 3)), [LIVER], 1)[0]
    assert row == {
        "id": 6,
        "name": "Liver",
        "voxels": 0,
        "volume_ml": 0,
        "mean_hu": None,
        "sd_hu": None,
        "truncated": False,
    }


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("end", [0, -1])
def test_a_class_that_touches_an_end_of_the_scan_is_truncated(axis, end):
    labels = np.zeros((7, 8, 9), dtype=np.uint8)
    labels[3, 3, 3] = LIVER.id
    hu = np.zeros(labels.shape)
    assert not class_rows(labels, hu, [LIVER], 1)[0]["truncated"]
    place = [4, 4, 4]
    place[axis] = end
    labels[tuple(place)] = LIVER.id
    assert class_rows(labels, hu, [LIVER], 1)[0]["truncated"]


@pytest.fixture
def two_lesions():
    """Two liver tumors at 1 x 2 x 4 mm: a bar of 10 x 2 x 1 voxels inside of the liver, and one voxel outside."""
    affine = np.diag([1.0, 2.0, 4.0, 1.0])
    affine[:3, 3] = (100, -50, 7)
    tumors = np.zeros((30, 20, 10), dtype=np.uint8)
    tumors[5:15, 4:6, 3] = TUMOR.id
    tumors[25, 15, 8] = TUMOR.id
    organs = np.zeros_like(tumors)
    organs[0:20, 0:10, 0:6] = LIVER.id
    grid = Grid(tumors.shape, affine)
    probability = np.where(tumors > 0, 0.75, 0).astype(np.float32)
    return find_lesions(tumors, organs, TUMORS, grid, LesionScores({TUMOR.name: probability}, grid))


def test_each_connected_tumor_is_a_lesion_the_largest_first(two_lesions):
    assert [lesion.id for lesion in two_lesions] == [1, 2]
    assert [lesion.volume_ml for lesion in two_lesions] == pytest.approx([20 * 0.008, 0.008])
    assert {lesion.name for lesion in two_lesions} == {TUMOR.name}


def test_a_lesion_lies_where_the_affine_says(two_lesions):
    assert two_lesions[0].centroid_mm == pytest.approx((100 + 9.5, -50 + 2 * 4.5, 7 + 4 * 3))
    assert two_lesions[1].centroid_mm == pytest.approx((125, -20, 39))


def test_the_long_axis_is_the_longest_diameter_in_an_axial_slice(two_lesions):
    # 9 steps of 1 mm and 1 step of 2 mm between the outermost middles, and a voxel of 1.5 mm on average.
    assert two_lesions[0].long_axis_mm == pytest.approx(np.hypot(9, 2) + 1.5, rel=1e-3)
    assert two_lesions[1].long_axis_mm == pytest.approx(1.5)


def test_the_score_is_the_mean_probability_and_the_host_the_organ_below(two_lesions):
    assert [lesion.mean_score for lesion in two_lesions] == pytest.approx([0.75, 0.75])
    assert [lesion.host for lesion in two_lesions] == ["Liver", None]


def test_scores_are_read_from_another_grid_by_position():
    coarse = Grid((4, 4, 4), np.diag([3.0, 3.0, 3.0, 1.0]))
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32)[:, None, None] / 3, (4, 4, 4))
    scores = LesionScores({"any": np.ascontiguousarray(ramp)}, coarse)
    assert scores.mean("any", np.array([[4.5, 1, 1], [1.5, 2, 2]])) == pytest.approx(1 / 3)
