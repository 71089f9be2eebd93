"""Phantoms: all organs, on their sides, in their order, of adult size, the same for the same seed."""

import numpy as np
import pytest
from scipy import ndimage

from dsmseg.synthesis.anatomy import organ_mask
from dsmseg.synthesis.phantom.body import draw_body
from dsmseg.synthesis.phantom.canvas import Canvas, Frame, Pose, replacing, smooth_line
from dsmseg.synthesis.phantom.patient import draw_patient, draw_pose
from dsmseg.taxonomy import ORGANS, find

SPACING = 4.0
FRAME = Frame((105, 84, 172), (SPACING,) * 3, (-210.0, -170.0, -195.0))


def body(seed: int, *, whole: bool = True, frame: Frame = FRAME) -> Canvas:
    return draw_body(draw_patient(seed, whole=whole), frame, draw_pose(seed))


@pytest.fixture(scope="module", params=range(6))
def structures(request) -> np.ndarray:
    return body(request.param).structures


def middle(structures: np.ndarray, name: str) -> np.ndarray:
    return np.argwhere(organ_mask(structures, find(name).id)).mean(axis=0)


def test_all_25_organs_are_there(structures) -> None:
    for organ in ORGANS:
        assert organ_mask(structures, organ.id).any(), organ.name


@pytest.mark.parametrize(
    ("axis", "further", "nearer"),
    [
        (0, "Right Kidney", "Left Kidney"),
        (0, "Right Lung", "Left Lung"),
        (0, "Right Adrenal Gland", "Left Adrenal Gland"),
        (0, "Right Head of Femur", "Left Head of Femur"),
        (0, "Liver", "Spleen"),
        (0, "Postcava", "Aorta"),
        (1, "Bladder", "Rectum"),
        (1, "Stomach", "Left Kidney"),
        (2, "Right Lung", "Liver"),
        (2, "Spleen", "Bladder"),
        (2, "Left Adrenal Gland", "Left Kidney"),
    ],
)
def test_organs_lie_on_their_sides_and_in_their_order(structures, axis, further, nearer) -> None:
    assert middle(structures, further)[axis] > middle(structures, nearer)[axis]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("Liver", 900, 2600),
        ("Spleen", 60, 450),
        ("Right Kidney", 80, 280),
        ("Left Kidney", 80, 280),
        ("Right Lung", 1000, 3800),
        ("Left Lung", 900, 3600),
        ("Aorta", 90, 420),
        ("Pancreas", 25, 150),
        ("Bladder", 30, 500),
    ],
)
def test_organs_have_the_size_of_an_adults(structures, name, low, high) -> None:
    assert low < organ_mask(structures, find(name).id).sum() * SPACING**3 / 1000 < high


def test_no_organ_touches_the_air_around_the_body(structures) -> None:
    outside = ndimage.binary_dilation(structures == 0)
    for organ in ORGANS:
        assert not (organ_mask(structures, organ.id) & outside).any(), organ.name


def test_a_part_of_a_grid_gets_what_it_gets_in_the_whole() -> None:
    frame = Frame((60, 50, 40), (6.0, 6.0, 6.0), (-180.0, -150.0, 60.0))
    part = Frame((60, 50, 15), (6.0, 6.0, 6.0), (-180.0, -150.0, 60.0 + 6 * 12))
    whole, own = body(3, frame=frame), body(3, frame=part)
    for name in ("structures", "depth", "height"):
        np.testing.assert_array_equal(getattr(own, name), getattr(whole, name)[:, :, 12:27])


def test_another_seed_is_another_anatomy() -> None:
    liver = [organ_mask(body(seed).structures, find("Liver").id) for seed in (1, 2)]
    assert 2 * (liver[0] & liver[1]).sum() / (liver[0].sum() + liver[1].sum()) < 0.93


def test_some_patients_lack_a_kidney_a_gallbladder_or_the_prostate() -> None:
    patients = [draw_patient(seed) for seed in range(150)]
    missing = set().union(*(one.missing for one in patients))
    assert {"gallbladder", "spleen"} <= missing
    assert missing & {"kidney_right", "kidney_left"}
    without = next(one for one in patients if "kidney_right" in one.missing or "kidney_left" in one.missing)
    side = "Right Kidney" if "kidney_right" in without.missing else "Left Kidney"
    structures = draw_body(without, FRAME, draw_pose(0)).structures
    assert not organ_mask(structures, find(side).id).any()
    assert organ_mask(structures, find("Liver").id).any()
    woman = next(seed for seed in range(50) if draw_patient(seed).sex == "female")
    assert not organ_mask(body(woman, whole=False).structures, find("Prostate").id).any()


def test_shapes_replace_only_what_they_may() -> None:
    frame = Frame((20, 20, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    canvas = Canvas(frame, Pose(np.eye(3), 0.0, 1))
    canvas.blob(5, (10, 10, 10), (6, 6, 6), over=replacing([0]))
    canvas.tube(7, [(0, 10, 10), (19, 10, 10)], 2.0, over=replacing([0]))
    canvas.tube(9, [(10, 0, 10), (10, 19, 10)], 2.0, over=replacing([5]))
    assert canvas.structures[10, 10, 10] == 9
    assert canvas.structures[5, 10, 10] == 5  # inside the blob, that 7 may not replace
    assert canvas.structures[1, 10, 10] == 7
    assert canvas.structures[10, 1, 10] == 0
    sphere = (canvas.structures == 5).sum() + (canvas.structures == 9).sum()
    assert sphere == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.05)
    assert canvas.depth[10, 10, 10] == pytest.approx(2.0)


def test_a_smooth_line_goes_through_its_points() -> None:
    points = np.array([(0, 0, 0), (4, 2, 1), (7, -3, 2), (9, 0, 8)], np.float64)
    np.testing.assert_allclose(smooth_line(points, 5)[::5], points)
