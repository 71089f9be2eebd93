"""Labels of a data set become classes: each voxel in just the classes that the description says, and none is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.datasets.description import describe
from dsmseg.datasets.labelling import class_table, label_classes, unknown_codes
from dsmseg.datasets.loading import Structures
from dsmseg.taxonomy import CLASSES, find

SHAPE = (30, 6, 5)
SPACING = (6.0, 6.0, 6.0)
NAMES = [one.name for one in CLASSES]


def described(*, labels=None, classes=None, separated=(), optional=(), apart=False):
    layout = {"case": r"\d+", "images": ["i{case}"], "labels": ["l{case}"]}
    if apart:
        layout |= {"labels": ["{case}/{structure}"], "kind": "one file a structure"}
    content = {"name": "own", "title": "", "citation": "", "licence": "", "where": "", "layout": layout}
    content |= {"labels": labels or {}, "classes": classes or {}, "separated": separated, "optional": optional}
    return describe(content, "test")


def from_map(ids, description, middle=None):
    return label_classes(Structures(ids, description.labels, {}), description, SPACING, middle)


def from_masks(masks, description, middle=None):
    return label_classes(Structures(None, {}, masks), description, SPACING, middle)


def check_whole(found):
    """Check what holds of any labels: the table is that of the sets, code 0 means nothing, codes are in the table."""
    assert found.sets[0] == ()
    assert len(set(found.sets)) == len(found.sets)
    assert all(list(one) == sorted(set(one)) for one in found.sets)
    assert found.codes.max(initial=0) < len(found.sets)
    assert list(found.annotated) == sorted(set(found.annotated))
    assert set(np.flatnonzero(found.table.any(0)) + 1) <= set(found.annotated)
    np.testing.assert_array_equal(found.table, class_table(found.sets))
    assert found.table.shape == (len(found.sets), 45)


def two_boxes(right=np.s_[22:28, 1:5, 1:4], left=np.s_[2:8, 1:5, 1:4]):
    """Mark two organs that lie 120 mm apart."""
    one, other = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    one[right], other[left] = True, True
    return one, other


def test_voxels_of_which_nothing_is_known_are_of_no_class_and_not_of_none():
    description = describe(
        {
            "name": "own", "title": "", "citation": "", "licence": "", "where": "",
            "layout": {"case": r"\d+", "images": ["i{case}"], "labels": ["l{case}"]},
            "labels": {"liver": 1, "doubt": 9}, "classes": {"Liver": ["liver"]}, "unknown": "doubt",
        },
        "test",
    )  # fmt: skip
    ids = np.zeros(SHAPE, np.uint8)
    ids[2:8], ids[8:10] = 1, 9
    found = from_map(ids, description)
    np.testing.assert_array_equal(unknown_codes(found.sets)[found.codes], ids == 9)
    np.testing.assert_array_equal(found.mask(find("Liver").id), ids == 1)
    assert not found.table[:, np.arange(45) != find("Liver").id - 1].any()


# --- label maps ------------------------------------------------------------------------------------------------------

plans = st.dictionaries(
    st.sampled_from(NAMES), st.sets(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=6
)


@settings(max_examples=60)
@given(plans, st.integers(0, 2**32 - 1), st.sampled_from((np.uint8, np.uint16, np.int32)))
def test_a_voxel_is_of_each_class_that_its_label_makes_up(plan, seed, dtype):
    labels = {f"label {id}": id for id in range(1, 10)}
    description = described(
        labels=labels, classes={name: [f"label {id}" for id in sorted(ids)] for name, ids in plan.items()}
    )
    ids = np.random.default_rng(seed).integers(0, 12, SHAPE).astype(dtype)  # 10 and 11 are none of the labels
    before = ids.copy()
    found = from_map(ids, description)
    check_whole(found)
    np.testing.assert_array_equal(ids, before)
    assert found.annotated == description.annotated_ids
    for one in CLASSES:
        np.testing.assert_array_equal(found.mask(one.id), np.isin(ids, sorted(plan.get(one.name, ()))))


@settings(max_examples=40)
@given(plans, st.integers(0, 2**32 - 1))
def test_masks_that_overlap_give_each_voxel_all_their_classes(plan, seed):
    description = described(classes={name: [f"s{id}" for id in sorted(ids)] for name, ids in plan.items()}, apart=True)
    random = np.random.default_rng(seed)
    masks = {name: random.random(SHAPE) < 0.3 for name in description.structures}
    found = from_masks(masks, description)
    check_whole(found)
    for name, ids in plan.items():
        expected = np.logical_or.reduce([masks[f"s{id}"] for id in ids])
        np.testing.assert_array_equal(found.mask(find(name).id), expected)


@pytest.mark.parametrize("largest", [1, 255, 256, 65535])
def test_ids_may_be_as_large_as_two_bytes_and_need_not_be_there(largest):
    description = described(labels={"a": 1, "b": 65535, "c": 300}, classes={"Liver": ["a"], "Spleen": ["b", "c"]})
    ids = np.zeros(SHAPE, np.uint16)
    ids[3, 3, 3], ids[0] = largest, 1
    found = from_map(ids, description)
    assert found.mask(find("liver").id).sum() == np.count_nonzero(ids == 1)
    assert found.mask(find("spleen").id).sum() == np.count_nonzero(ids == 65535)
    assert found.annotated == (1, 6)


def test_empty_labels_are_known_to_hold_nothing():
    description = described(labels={"a": 1, "b": 2}, classes={"Liver": ["a"]})
    found = from_map(np.zeros(SHAPE, np.uint8), description)
    assert found.annotated == (find("liver").id,)
    assert not found.codes.any()


def test_a_label_of_no_class_is_background_of_none():
    description = described(labels={"a": 1, "bone": 2}, classes={"Liver": ["a"]})
    found = from_map(np.full(SHAPE, 2, np.uint8), description)
    assert not found.codes.any()
    assert found.annotated == (find("liver").id,)


def test_codes_are_bytes_up_to_256_sets_and_two_bytes_beyond():
    # Nine overlapping masks make 2^9 sets; eight make 2^8, which a byte holds.
    for count, dtype in ((8, np.uint8), (9, np.uint16)):
        names = NAMES[5 : 5 + count]
        description = described(classes={name: [f"s{index}"] for index, name in enumerate(names)}, apart=True)
        number = np.arange(2**count).reshape(8, 8, -1)
        masks = {f"s{index}": (number >> index) % 2 == 1 for index in range(count)}
        found = from_masks(masks, description)
        check_whole(found)
        assert found.codes.dtype == dtype
        assert len(found.sets) == 2**count
        for index, name in enumerate(names):
            np.testing.assert_array_equal(found.mask(find(name).id), masks[f"s{index}"])


# --- merged sides ----------------------------------------------------------------------------------------------------

KIDNEYS = {"labels": ["kidney"], "right": "Right Kidney", "left": "Left Kidney", "rule": "kidneys"}
WITH_TUMOR = {**KIDNEYS, "labels": ["kidney", "tumor"]}
RIGHT, LEFT, TUMOR = (find(name).id for name in ("Right Kidney", "Left Kidney", "Kidney Tumor"))


def test_a_merged_organ_is_parted_and_each_side_takes_its_tumor_in():
    right, left = two_boxes()
    ids = (right | left).astype(np.uint8)
    ids[24:26, 2:4, 2] = 2
    description = described(
        labels={"kidney": 1, "tumor": 2}, classes={"Kidney Tumor": ["tumor"]}, separated=[WITH_TUMOR]
    )
    found = from_map(ids, description, middle=14.5)
    check_whole(found)
    assert found.merged == ()
    assert found.annotated == tuple(sorted((RIGHT, LEFT, TUMOR)))
    np.testing.assert_array_equal(found.mask(RIGHT), right)
    np.testing.assert_array_equal(found.mask(LEFT), left)
    np.testing.assert_array_equal(found.mask(TUMOR), ids == 2)


def test_one_organ_in_the_middle_is_of_both_sides_and_known_to_be_merged():
    ids = np.zeros(SHAPE, np.uint8)
    ids[13:17, 1:5, 1:4] = 1
    found = from_map(ids, described(labels={"kidney": 1}, separated=[KIDNEYS]), middle=14.5)
    check_whole(found)
    assert found.merged == ((RIGHT, LEFT),)
    assert found.annotated == (RIGHT, LEFT)
    for side in (RIGHT, LEFT):
        np.testing.assert_array_equal(found.mask(side), ids == 1)


@pytest.mark.parametrize("present", [0, 1])
def test_the_side_that_a_patient_lacks_is_known_to_be_empty(present):
    organ = two_boxes()[present]
    found = from_map(organ.astype(np.uint8), described(labels={"kidney": 1}, separated=[KIDNEYS]), middle=14.5)
    assert found.merged == ()
    assert found.annotated == (RIGHT, LEFT)
    np.testing.assert_array_equal(found.mask((RIGHT, LEFT)[present]), organ)
    assert not found.mask((LEFT, RIGHT)[present]).any()


def test_a_scan_without_the_organ_knows_both_sides_to_be_empty():
    found = from_map(np.zeros(SHAPE, np.uint8), described(labels={"kidney": 1}, separated=[KIDNEYS]), middle=None)
    assert found.annotated == (RIGHT, LEFT)
    assert found.merged == ()
    assert not found.codes.any()


def test_several_organs_are_parted_each_by_its_own_rule():
    right, left = two_boxes()
    ids = (right | left).astype(np.uint8)
    ids[11:19, 5, 4] = 2
    lungs = {"labels": ["lung"], "right": "Right Lung", "left": "Left Lung", "rule": "lungs"}
    description = described(labels={"kidney": 1, "lung": 2}, separated=[lungs, KIDNEYS])
    found = from_map(ids, description, middle=14.5)
    check_whole(found)
    assert found.merged == ((find("right lung").id, find("left lung").id),)
    np.testing.assert_array_equal(found.mask(RIGHT), right)


# --- one file a structure --------------------------------------------------------------------------------------------


def kidney_and_cyst(optional):
    classes = {"Right Kidney": ["kidney", "cyst"], "Kidney Cyst": ["cyst", "cyst left"], "Liver": ["liver"]}
    return described(classes=classes, optional=optional, apart=True)


def test_a_class_is_unknown_where_one_of_its_files_is_missing():
    full = np.ones(SHAPE, bool)
    found = from_masks({"kidney": full, "liver": full}, kidney_and_cyst(()))
    assert found.annotated == (find("liver").id,)
    assert not found.mask(RIGHT).any()


def test_an_optional_file_that_is_missing_leaves_its_class_known():
    full = np.ones(SHAPE, bool)
    found = from_masks({"kidney": full, "liver": full}, kidney_and_cyst(("cyst", "cyst left")))
    assert found.annotated == (RIGHT, find("liver").id)
    assert found.mask(RIGHT).all()


def test_a_class_all_of_whose_files_are_optional_needs_one_of_them():
    full, none = np.ones(SHAPE, bool), np.zeros(SHAPE, bool)
    optional = kidney_and_cyst(("cyst", "cyst left"))
    found = from_masks({"kidney": none, "liver": none, "cyst left": full}, optional)
    cyst = find("kidney cyst").id
    assert found.annotated == tuple(sorted((RIGHT, find("liver").id, cyst)))
    assert found.mask(cyst).all()
    assert not found.mask(RIGHT).any()


def test_parting_goes_over_files_of_structures_too():
    right, left = two_boxes()
    description = described(separated=[KIDNEYS], classes={"Liver": ["liver"]}, apart=True)
    found = from_masks({"kidney": right | left, "liver": right}, description, middle=14.5)
    np.testing.assert_array_equal(found.mask(RIGHT), right)
    np.testing.assert_array_equal(found.mask(LEFT), left)
    np.testing.assert_array_equal(found.mask(find("liver").id), right)
    unknown = from_masks({"liver": right}, description, middle=14.5)
    assert unknown.annotated == (find("liver").id,)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_merged_organ_whose_optional_tumor_has_no_file_is_still_parted(is_known):
    right, left = two_boxes()
    description = described(separated=[WITH_TUMOR], optional=("tumor",) if is_known else (), apart=True)
    found = from_masks({"kidney": right | left}, description, middle=14.5)
    check_whole(found)
    assert found.annotated == ((RIGHT, LEFT) if is_known else ())
    assert found.mask(RIGHT).any() == is_known
    if is_known:
        np.testing.assert_array_equal(found.mask(RIGHT), right)
        np.testing.assert_array_equal(found.mask(LEFT), left)


def test_both_classes_of_a_merged_pair_hold_the_union_of_overlapping_files():
    organ, tumor = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    organ[13:17, 1:4, 1:4], tumor[13:17, 2:5, 2:5] = True, True
    description = described(classes={"Kidney Tumor": ["tumor"]}, separated=[WITH_TUMOR], apart=True)
    found = from_masks({"kidney": organ, "tumor": tumor}, description, middle=14.5)
    check_whole(found)
    assert found.merged == ((RIGHT, LEFT),)
    for side in (RIGHT, LEFT):
        np.testing.assert_array_equal(found.mask(side), organ | tumor)
    np.testing.assert_array_equal(found.mask(TUMOR), tumor)


def test_parting_stays_right_where_it_takes_the_sets_beyond_256():
    # Eight overlapping masks use all 256 sets; each side of the kidneys then doubles those that it holds.
    names = [name for name in NAMES if "Kidney" not in name][:8]
    number = np.arange(48 * 12 * 12).reshape(48, 12, 12) % 256
    masks = {f"s{index}": (number >> index) % 2 == 1 for index in range(8)}
    right, left = np.zeros(number.shape, bool), np.zeros(number.shape, bool)
    right[36:44, 2:10, 2:10], left[4:12, 2:10, 2:10] = True, True
    description = described(
        classes={name: [f"s{index}"] for index, name in enumerate(names)}, separated=[KIDNEYS], apart=True
    )
    found = from_masks(masks | {"kidney": right | left}, description, middle=23.5)
    check_whole(found)
    assert len(found.sets) > 256
    assert found.codes.dtype == np.uint16
    np.testing.assert_array_equal(found.mask(RIGHT), right)
    np.testing.assert_array_equal(found.mask(LEFT), left)
    for index, name in enumerate(names):
        np.testing.assert_array_equal(found.mask(find(name).id), masks[f"s{index}"])


def test_a_label_map_of_more_than_256_sets_takes_two_bytes_too():
    names = NAMES[:9]
    labels = {f"label {id}": id for id in range(1, 400)}
    classes = {name: [f"label {id}" for id in labels.values() if (id >> bit) % 2] for bit, name in enumerate(names)}
    ids = (np.arange(20 * 5 * 4) % 400).astype(np.uint16).reshape(20, 5, 4)
    found = from_map(ids, described(labels=labels, classes=classes))
    check_whole(found)
    assert found.codes.dtype == np.uint16
    assert len(found.sets) == 400
    for bit, name in enumerate(names):
        np.testing.assert_array_equal(found.mask(find(name).id), (ids >> bit) % 2 == 1)


@settings(max_examples=20)
@given(plans, st.integers(0, 2**32 - 1))
def test_how_labels_lie_in_memory_makes_no_difference(plan, seed):
    labels = {f"label {id}": id for id in range(1, 10)}
    description = described(
        labels=labels, classes={name: [f"label {id}" for id in sorted(ids)] for name, ids in plan.items()}
    )
    ids = np.random.default_rng(seed).integers(0, 12, SHAPE).astype(np.uint8)
    expected = from_map(ids, description)
    for same in (np.asfortranarray(ids), np.flip(np.flip(ids).copy()), np.repeat(ids, 2, axis=1)[:, ::2]):
        found = from_map(same, description)
        assert found.sets == expected.sets
        np.testing.assert_array_equal(found.codes, expected.codes)


def test_masks_given_are_not_changed():
    right, left = two_boxes()
    masks = {"kidney": right | left, "liver": right.copy()}
    before = {name: mask.copy() for name, mask in masks.items()}
    from_masks(masks, described(separated=[KIDNEYS], classes={"Liver": ["liver"]}, apart=True), middle=14.5)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, before[name])
