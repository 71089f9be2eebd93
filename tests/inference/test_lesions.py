"""What is told of a lesion is what was put there."""

import numpy as np
import pytest

from dsmseg.checkpoint import OperatingPoint
from dsmseg.inference.lesions import drop_weak, find_lesions, lesion_labels
from dsmseg.taxonomy import TUMORS, find
from dsmseg.volume import Volume

LIVER = find("Liver")
TUMOR = find("Liver Tumor")


def lesions_of(mask, spacing=(1.0, 1.0, 1.0), hu=None):
    """Give the lesions of a mask of liver tumor."""
    tumors = np.where(mask, TUMOR.id, 0).astype(np.uint8)
    volume = Volume.from_own(np.zeros(mask.shape, np.float32) if hu is None else hu, np.diag([*spacing, 1.0]))
    return find_lesions(tumors, np.zeros_like(tumors), [TUMOR], volume, np.where(mask, 255, 0).astype(np.uint8))


def ellipse(angle, long=60.0, short=24.0, spacing=0.5):
    """Make a slice of 100 mm with an ellipse of these diameters, turned by an angle in degrees."""
    x, y = (np.mgrid[0:200, 0:200] + 0.5) * spacing - 50
    turn = np.deg2rad(angle)
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return ((along / long) ** 2 + (across / short) ** 2 < 0.25)[:, :, None]


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
    volume = Volume.from_own(np.where(tumors > 0, 40.0, 100.0).astype(np.float32), affine)
    levels = np.where(tumors > 0, 153, 0).astype(np.uint8)
    levels[5:10] = 255
    return find_lesions(tumors, organs, TUMORS, volume, levels)


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
    assert [lesion.mean_score for lesion in two_lesions] == pytest.approx([0.8, 0.6])
    assert [lesion.host for lesion in two_lesions] == ["Liver", None]


@pytest.mark.parametrize("angle", [0, 17, 45, 90, 133])
def test_an_ellipse_has_its_own_two_axes_however_it_is_turned(angle):
    (lesion,) = lesions_of(np.pad(ellipse(angle), ((0, 0), (0, 0), (1, 1))), (0.5, 0.5, 3.0))
    assert lesion.long_axis_mm == pytest.approx(60, abs=1.0)
    assert lesion.short_axis_mm == pytest.approx(24, abs=1.5)


def test_the_short_axis_of_a_bend_is_a_diameter_not_its_whole_width():
    bent = np.zeros((60, 60, 5), dtype=bool)
    bent[5:55, 10:14, 2] = True
    bent[5:9, 10:40, 2] = True
    (lesion,) = lesions_of(bent)
    assert lesion.long_axis_mm > 55
    assert lesion.short_axis_mm < 15  # as a whole it is 26 mm wide across its long axis


def test_density_is_that_of_the_lesion_s_voxels(two_lesions):
    assert [(one.mean_hu, one.sd_hu) for one in two_lesions] == [(40, 0), (40, 0)]
    hu = np.arange(216, dtype=np.float32).reshape(6, 6, 6)
    mask = np.zeros(hu.shape, dtype=bool)
    mask[1:3, 2:4, 3] = True
    (lesion,) = lesions_of(mask, hu=hu)
    assert (lesion.mean_hu, lesion.sd_hu) == pytest.approx((hu[mask].mean(), hu[mask].std()))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize(("steps", "from_end"), [(0, False), (0, True), (2, False), (2, True)])
def test_the_distance_to_the_scan_s_edge_and_what_it_cuts(axis, steps, from_end):
    mask = np.zeros((20, 20, 20), dtype=bool)
    place = [slice(8, 10)] * 3
    place[axis] = slice(20 - steps - 2, 20 - steps) if from_end else slice(steps, steps + 2)
    mask[tuple(place)] = True
    spacing = (1.0, 2.0, 3.0)
    (lesion,) = lesions_of(mask, spacing)
    assert lesion.edge_mm == pytest.approx(steps * spacing[axis])
    assert lesion.truncated == (steps == 0)
    assert lesion.row()["truncated"] == (steps == 0)
    assert lesion.volume_ml > 0


def test_a_label_map_of_lesions_has_their_ids():
    tumors = np.zeros((12, 11, 10), dtype=np.uint8)
    tumors[1, 1, 1], tumors[3:5, 3, 3], tumors[8:11, 8:10, 8] = TUMOR.id, TUMOR.id, find("Kidney Cyst").id
    tumors[6, 6:8, 1] = find("Kidney Cyst").id
    volume = Volume.from_own(np.zeros(tumors.shape, np.float32), np.eye(4))
    lesions = find_lesions(tumors, np.zeros_like(tumors), TUMORS, volume, tumors)
    labels = lesion_labels(tumors, TUMORS)
    assert [lesion.id for lesion in lesions] == [1, 2, 3, 4]
    for lesion in lesions:
        mask = labels == lesion.id
        assert mask.sum() == round(lesion.volume_ml * 1000)
        assert np.argwhere(mask).mean(axis=0) == pytest.approx(lesion.centroid_mm)
    assert not lesion_labels(np.zeros_like(tumors), TUMORS).any()


def test_only_lesions_of_the_class_that_has_a_point_and_are_below_it_are_erased():
    other = find("Kidney Tumor")
    labels, levels = np.zeros((20, 9, 9), np.uint8), np.zeros((20, 9, 9), np.uint8)
    labels[0:2, 0, 0], labels[2, 1, 1] = TUMOR.id, TUMOR.id  # they touch by a corner: one lesion
    labels[5:8, 0, 0], labels[10:12, 0, 0], labels[14, 0, 0] = TUMOR.id, TUMOR.id, other.id
    levels[labels > 0] = 204
    levels[5:8, 0, 0] = 51
    points = {TUMOR.id: OperatingPoint(least_volume_ml=3.0, least_score=0.5), other.id: OperatingPoint()}
    drop_weak(labels, levels, [TUMOR, other], points, voxel_ml=1.0)
    expected = np.zeros_like(labels)
    expected[0:2, 0, 0], expected[2, 1, 1], expected[14, 0, 0] = TUMOR.id, TUMOR.id, other.id
    assert np.array_equal(labels, expected)
