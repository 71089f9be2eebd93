"""A mask of both sides of an organ is parted into the true sides, whatever shape it has."""

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.datasets.separation import part_sides
from dsmseg.volume import read_labels

RULES = ("kidneys", "lungs", "adrenal glands", "heads of femur")
SPACING = (3.0, 4.0, 5.0)
# mm: distance of each organ's center from the body's middle, and its half axes.
FORMS = {
    "kidneys": (65.0, (26.0, 24.0, 46.0)),
    "lungs": (72.0, (52.0, 55.0, 90.0)),
    "adrenal glands": (37.0, (15.0, 13.0, 16.0)),
    "heads of femur": (88.0, (23.0, 22.0, 22.0)),
}


class Space:
    """Voxels of a spacing around the origin, in mm: x to the right, y to the front, z up."""

    def __init__(self, spacing=SPACING, extent=(140.0, 70.0, 110.0), offset=0.0):
        self.spacing = spacing
        self.axes = [
            np.arange(-end, end, step) + (offset if axis == 0 else 0)
            for axis, (end, step) in enumerate(zip(extent, spacing, strict=True))
        ]
        self.middle = float((0 - self.axes[0][0]) / spacing[0])

    def blob(self, center, half):
        x, y, z = (((one - at) / size) ** 2 for one, at, size in zip(self.axes, center, half, strict=True))
        return x[:, None, None] + y[:, None] + z < 1

    def box(self, low, high):
        x, y, z = ((one > start) & (one < end) for one, start, end in zip(self.axes, low, high, strict=True))
        return x[:, None, None] & y[:, None] & z

    def pair(self, rule):
        away, half = FORMS[rule]
        return self.blob((away, 0, 0), half), self.blob((-away, 0, 0), half)

    def part(self, mask, rule, middle=True):
        return part_sides(mask, rule, self.spacing, self.middle if middle else None)


def overlap(one, other):
    """Dice; two empty masks are the same."""
    both = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / both if both else 1.0


@pytest.fixture(scope="module")
def space():
    return Space()


# --- what comes of any mask ------------------------------------------------------------------------------------------

boxes = st.tuples(*[st.integers(0, size - 1) for size in (44, 14, 16)], *[st.integers(1, 12)] * 3)
masks = st.lists(boxes, max_size=6)


def filled(corners):
    mask = np.zeros((48, 18, 20), bool)
    for x, y, z, width, depth, height in corners:
        mask[x : x + width, y : y + depth, z : z + height] = True
    return mask


@settings(max_examples=60)
@given(
    masks,
    st.sampled_from(RULES),
    st.tuples(*[st.floats(0.7, 8.0)] * 3),
    st.none() | st.floats(0, 47),
)
def test_both_sides_together_are_the_mask_and_share_no_voxel(corners, rule, spacing, middle):
    mask = filled(corners)
    before = mask.copy()
    sides = part_sides(mask, rule, spacing, middle)
    np.testing.assert_array_equal(mask, before)
    if sides is None:
        assert mask.any()
        return
    right, left = sides
    assert right.shape == left.shape == mask.shape
    assert right.dtype == left.dtype == bool
    np.testing.assert_array_equal(right | left, mask)
    assert not (right & left).any()


forms = st.tuples(
    st.floats(-8, 8), st.floats(-8, 8), st.floats(0.75, 1.25), st.floats(0.75, 1.25), st.floats(0.0, 30.0)
)


@settings(max_examples=10)
@given(st.sampled_from(RULES), forms, st.booleans())
def test_a_mirrored_body_is_parted_alike_with_its_sides_exchanged(rule, form, knows_middle):
    forward, up, first, second, bridge = form
    away, half = FORMS[rule]
    space = Space((4.0, 4.0, 5.0))
    mask = space.blob((away, forward, up), np.array(half) * first)
    mask |= space.blob((-away, -forward, -up), np.array(half) * second)
    mask |= space.box((-away, -bridge / 2, -bridge / 2), (away, bridge / 2, bridge / 2))
    middle = space.middle if knows_middle else None
    sides = part_sides(mask, rule, space.spacing, middle)
    mirrored = part_sides(mask[::-1], rule, space.spacing, None if middle is None else len(mask) - 1 - middle)
    assert (sides is None) == (mirrored is None)
    if sides is not None:
        # Voxels as far from the one as from the other may go either way.
        for here, there in zip(sides, mirrored[::-1], strict=True):
            assert overlap(here, there[::-1]) > 0.93


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_mask_has_two_empty_sides(rule):
    for side in part_sides(np.zeros((5, 6, 7), bool), rule, SPACING, 2.0):
        assert not side.any()


# --- two organs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("knows_middle", [True, False])
def test_two_organs_that_lie_apart_are_the_two_sides(space, rule, knows_middle):
    right, left = space.pair(rule)
    sides = space.part(right | left, rule, knows_middle)
    np.testing.assert_array_equal(sides[0], right)
    np.testing.assert_array_equal(sides[1], left)


@given(
    st.sampled_from(RULES),
    st.tuples(st.floats(1.0, 5.0), st.floats(1.5, 6.0), st.floats(1.5, 10.0)),
    st.floats(-1, 1),
)
@settings(max_examples=20)
def test_any_spacing_gives_the_same_two_organs(rule, spacing, offset):
    space = Space(spacing, offset=offset)
    right, left = space.pair(rule)
    sides = space.part(right | left, rule)
    np.testing.assert_array_equal(sides[0], right)
    np.testing.assert_array_equal(sides[1], left)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("knows_middle", [True, False])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.5, 1.5, 6.0), (4.0, 2.0, 2.0)])
def test_two_organs_joined_by_a_thin_neck_are_parted_at_the_neck(rule, knows_middle, spacing):
    away, _ = FORMS[rule]
    space = Space(spacing, extent=(128.0, 60.0, 96.0))
    thick = {"kidneys": 9.0, "lungs": 14.0, "adrenal glands": 5.0, "heads of femur": 8.0}[rule]
    organs = space.pair(rule)
    # A neck is found where some voxels thick and thinner than the organs.
    neck = space.box((-away, -thick / 2, -thick / 2), (away, thick / 2, thick / 2))
    assert neck.any()
    sides = space.part(organs[0] | organs[1] | neck, rule, knows_middle)
    for side, organ, direction in zip(sides, organs, (1, -1), strict=True):
        assert (side & organ).sum() == organ.sum()
        beyond = (space.axes[0] * direction < -0.4 * away)[:, None, None] & side
        assert not beyond.any()


@pytest.mark.parametrize("depth", [30.0, 50.0])
def test_lungs_in_broad_contact_are_cut_where_they_are_thinnest(space, depth):
    half = (52.0, 55.0, 90.0)
    right, left = space.blob((46, 0, 0), half), space.blob((-46, -5, 0), half)
    contact = space.box((-30, 0, -40), (30, depth, 40))
    sides = space.part(right | left | contact, "lungs")
    x = space.axes[0][:, None, None]
    assert overlap(sides[0], (right | left | contact) & (x > 0)) > 0.97
    assert overlap(sides[1], (right | left | contact) & (x < 0)) > 0.97


@pytest.mark.parametrize("thick", [10.0, 24.0, 34.0])
def test_a_horseshoe_kidney_is_parted_at_its_isthmus(space, thick):
    right, left = space.pair("kidneys")
    isthmus = space.box((-65, -thick / 2, -45), (65, thick / 2, -45 + thick))
    whole = right | left | isthmus
    sides = space.part(whole, "kidneys")
    x = space.axes[0][:, None, None]
    assert overlap(sides[0], whole & (x > 0)) > 0.9
    assert overlap(sides[1], whole & (x < 0)) > 0.9


@pytest.mark.parametrize("rule", RULES)
def test_a_fragment_goes_with_the_nearer_organ(space, rule):
    right, left = space.pair(rule)
    away, half = FORMS[rule]
    near_right = space.box((away - 12, -6, half[2] + 8), (away - 3, 6, half[2] + 19))
    near_left = space.box((-10, -6, -5), (-3, 6, 5))
    assert near_right.any()
    assert near_left.any()
    sides = space.part(right | left | near_right | near_left, rule)
    np.testing.assert_array_equal(sides[0], right | near_right)
    np.testing.assert_array_equal(sides[1], left | near_left)


@pytest.mark.parametrize("rule", RULES)
def test_an_organ_in_several_large_parts_is_one_side(space, rule):
    right, left = space.pair(rule)
    pieces = right & ~space.box((-200, -200, -4), (200, 200, 4))
    sides = space.part(pieces | left, rule)
    np.testing.assert_array_equal(sides[0], pieces)
    np.testing.assert_array_equal(sides[1], left)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("rule", ["kidneys", "lungs"])
def test_an_organ_much_smaller_than_the_other_keeps_its_side(space, rule, mirrored):
    # A shrunken kidney; the tip of a lung at the upper end of an abdominal scan.
    away, half = FORMS[rule]
    large, small = space.blob((away, 0, 0), half), space.blob((-away, 0, 0), np.array(half) * 0.42)
    if mirrored:
        large, small = space.blob((-away, 0, 0), half), space.blob((away, 0, 0), np.array(half) * 0.42)
    assert 0.05 < small.sum() / large.sum() < 0.1
    sides = space.part(large | small, rule)
    np.testing.assert_array_equal(sides[int(mirrored)], large)
    np.testing.assert_array_equal(sides[1 - int(mirrored)], small)


# --- one organ -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_lone_organ_has_the_side_on_which_it_lies(space, rule):
    for mask, side in zip(space.pair(rule), (0, 1), strict=True):
        sides = space.part(mask, rule)
        np.testing.assert_array_equal(sides[side], mask)
        assert not sides[1 - side].any()


@pytest.mark.parametrize("rule", RULES)
def test_a_lone_organ_and_its_fragments_have_one_side(space, rule):
    mask, _ = space.pair(rule)
    mask |= space.box((12, -8, -10), (20, 8, -2))
    sides = space.part(mask, rule)
    np.testing.assert_array_equal(sides[0], mask)


@pytest.mark.parametrize("rule", RULES)
def test_a_lone_organ_in_the_middle_has_no_side(space, rule):
    assert space.part(space.blob((1, 0, 0), (24, 20, 40)), rule) is None


@pytest.mark.parametrize("rule", RULES)
def test_a_lone_organ_has_no_side_where_the_middle_is_unknown(space, rule):
    right, _ = space.pair(rule)
    assert space.part(right, rule, middle=False) is None


def test_a_pelvic_kidney_beside_a_normal_one_is_of_the_other_side(space):
    right, pelvic = space.blob((65, 0, 50), (26, 24, 40)), space.blob((-12, 0, -60), (24, 24, 30))
    sides = space.part(right | pelvic, "kidneys")
    np.testing.assert_array_equal(sides[0], right)
    np.testing.assert_array_equal(sides[1], pelvic)


# --- real bodies -----------------------------------------------------------------------------------------------------

NAMES = {
    "kidneys": (("kidney_right",), ("kidney_left",)),
    "adrenal glands": (("adrenal_gland_right",), ("adrenal_gland_left",)),
    "lungs": (
        ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
        ("lung_upper_lobe_left", "lung_lower_lobe_left"),
    ),
}
FOLDERS = ("labelmaps/s0327.nii.gz", "labelmaps/s0328.nii.gz", "abdomen_3mm/totalseg_labels.nii.gz")


@cache
def _real(path):
    """Give label map, spacing, middle of the body, and ids by name."""
    volume = read_labels(path)
    names = json.loads((path.parents[1] / "totalsegmentator_v2_ids.json").read_text())
    ids = {name: int(id) for id, name in names.items()}
    spine = np.isin(volume.array, [id for name, id in ids.items() if name.startswith("vertebrae")])
    columns = np.flatnonzero(spine.any((1, 2)))
    return volume.array, volume.spacing, float(columns.mean()), ids


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("rule", list(NAMES))
def test_organs_of_a_real_body_are_parted_as_they_are(real_data, name, rule):
    if not (real_data / name).is_file():
        pytest.skip("this body is not here")
    labels, spacing, middle, ids = _real(real_data / name)
    right, left = (np.isin(labels, [ids[one] for one in side]) for side in NAMES[rule])
    if not right.any() or not left.any():
        pytest.skip("this body does not show both")
    for known in (middle, None):
        sides = part_sides(right | left, rule, spacing, known)
        assert overlap(sides[0], right) > 0.995
        assert overlap(sides[1], left) > 0.995


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("rule", list(NAMES))
def test_organs_of_a_real_body_that_the_scan_cuts_keep_their_sides(real_data, name, rule):
    if not (real_data / name).is_file():
        pytest.skip("this body is not here")
    labels, spacing, middle, ids = _real(real_data / name)
    right, left = (np.isin(labels, [ids[one] for one in side]) for side in NAMES[rule])
    heights = np.flatnonzero((right | left).any((0, 1)))
    if heights.size == 0:
        pytest.skip("this body shows neither")
    low, high = heights[0], heights[-1] + 1
    wrong = []
    for share in (0.1, 0.2, 0.3, 0.7, 0.9):
        cut = int(low + share * (high - low))
        for what in (np.s_[:, :, :cut], np.s_[:, :, cut:]):
            sides = part_sides(right[what] | left[what], rule, spacing, middle)
            truth = right[what], left[what]
            if sides is not None and any(
                one.any() and overlap(side, one) < 0.97 for side, one in zip(sides, truth, strict=True)
            ):
                shares = [np.count_nonzero(one) for one in (*truth, *sides)]
                wrong.append((share, "below" if what[2].start is None else "above", shares))
    assert not wrong


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("rule", list(NAMES))
def test_organs_of_a_mirrored_real_body_are_parted_with_their_sides_exchanged(real_data, name, rule):
    if not (real_data / name).is_file():
        pytest.skip("this body is not here")
    labels, spacing, middle, ids = _real(real_data / name)
    right, left = (np.isin(labels, [ids[one] for one in side])[::-1] for side in NAMES[rule])
    if not right.any() or not left.any():
        pytest.skip("this body does not show both")
    for known in (len(labels) - 1 - middle, None):
        sides = part_sides(right | left, rule, spacing, known)
        assert overlap(sides[0], left) > 0.995
        assert overlap(sides[1], right) > 0.995


# --- broad contact ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_organs_that_no_waist_tells_apart_are_cut_at_the_middle_of_the_body(rule):
    # A bar is equally thick everywhere, so that nothing but the body's middle says where to cut.
    away, half = FORMS[rule]
    space = Space((2.0, 4.0, 5.0))
    bar = space.box((-away - half[0], -40, -60), (away + half[0], 40, 60))
    right, left = space.part(bar, rule)
    x = space.axes[0][:, None, None]
    assert not (right & (x < -space.spacing[0])).any()
    assert not (left & (x > space.spacing[0])).any()
    np.testing.assert_array_equal(right | left, bar)


@pytest.mark.parametrize("rule", RULES)
def test_organs_that_no_waist_tells_apart_have_no_sides_where_the_middle_is_unknown(rule):
    away, half = FORMS[rule]
    space = Space()
    bar = space.box((-away - half[0], -40, -60), (away + half[0], 40, 60))
    assert space.part(bar, rule, middle=False) is None


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.5, 0.6, 0.8])
@pytest.mark.parametrize("mirrored", [False, True])
def test_where_every_cut_is_as_thin_the_one_nearest_the_body_s_middle_is_made(share, mirrored):
    # The cut lies between two slices, so that one is always within half a voxel of the middle.
    bar = np.zeros((70, 20, 20), bool)
    bar[5:65, 4:16, 4:16] = True
    middle = 34.0 + share
    if mirrored:
        middle = len(bar) - 1 - middle
    right, left = part_sides(bar, "kidneys", (4.0, 4.0, 5.0), middle)
    border = np.flatnonzero(right.any((1, 2)))[0] - 0.5
    assert np.flatnonzero(left.any((1, 2)))[-1] + 0.5 == border
    assert abs(border - middle) <= 0.5 + 1e-9
