"""The order of organs tells a mirrored body and exchanged sides, and nothing of a body as it should be."""

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsmseg.datasets.atlas import atlas, can_tell, misplaced
from dsmseg.taxonomy import CLASSES, ORGANS

AXES = (0, 1, 2)
EXCHANGED = ("left and right", "front and back", "top and bottom")
NAMES = sorted(atlas().center)
PAIRS = [
    (one.name, other.name)
    for one in ORGANS
    for other in ORGANS
    if (one.side, other.side) == ("right", "left") and one.snomed == other.snomed
]
subsets = st.sets(st.sampled_from(NAMES)).map(sorted)
MIRRORS = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])


def centers_of(names, change=lambda center: center):
    return {(name,): change(atlas().center[name]) for name in names}


def told_axes(sentences):
    """Give the axes that are said to be exchanged."""
    return {axis for axis in AXES for one in sentences if one.startswith(f"{EXCHANGED[axis]} are exchanged: ")}


def test_the_atlas_knows_every_organ_and_the_density_of_every_class():
    assert set(atlas().center) == {organ.name for organ in ORGANS}
    for one in CLASSES:
        low, high = atlas().hu[one.name]
        assert -1024 <= low < high <= 3000


def test_paired_organs_lie_on_their_sides_in_the_atlas():
    assert len(PAIRS) == 4
    for right, left in PAIRS:
        assert atlas().center[right][0] > 0 > atlas().center[left][0]
        assert atlas().center[right] == pytest.approx(atlas().center[left] * MIRRORS[0], abs=20)


@given(
    subsets,
    st.tuples(*[st.floats(-2000, 2000)] * 3),
    st.floats(0.8, 1.25),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_a_body_as_it_should_be_has_nothing_to_tell(names, origin, size, seed, knows_middle):
    noise = np.random.default_rng(seed)
    centers = centers_of(names, lambda center: center * size + origin + noise.uniform(-10, 10, 3))
    assert misplaced(centers, origin[0] if knows_middle else None) == []


@given(subsets, st.sampled_from(AXES), st.tuples(*[st.floats(-2000, 2000)] * 3), st.floats(0.8, 1.25), st.booleans())
def test_a_mirrored_body_is_told_along_just_that_axis_if_two_organs_can_tell(names, axis, origin, size, knows_middle):
    centers = centers_of(names, lambda center: center * size * MIRRORS[axis] + origin)
    told = misplaced(centers, origin[0] if knows_middle else None)
    if can_tell(centers, axis):
        assert told_axes(told) == {axis}
        assert len(told) == 1
    elif not (axis == 0 and knows_middle):
        assert told == []
    assert all("\n" not in one and re.search(r" lies \d+ mm ", one) for one in told)


@given(subsets, st.sets(st.sampled_from(AXES), min_size=2))
def test_each_mirrored_axis_is_told(names, axes):
    centers = centers_of(names, lambda center: center * np.prod(MIRRORS[sorted(axes)], axis=0))
    assert told_axes(misplaced(centers)) == {axis for axis in axes if can_tell(centers, axis)}


@pytest.mark.parametrize(("right", "left"), PAIRS)
def test_exchanged_sides_of_one_organ_are_told_as_that(right, left):
    centers = centers_of(NAMES)
    centers[(right,)], centers[(left,)] = centers[(left,)], centers[(right,)]
    for middle in (None, 0.0):
        (told,) = misplaced(centers, middle)
        assert told.startswith("the sides of an organ are exchanged: ")
        assert right in told
        assert left in told


@pytest.mark.parametrize("name", [name for name in NAMES if abs(atlas().center[name][0]) > 60])
def test_one_organ_and_the_body_s_middle_tell_left_from_right(name):
    assert misplaced(centers_of([name]), 0.0) == []
    (told,) = misplaced(centers_of([name], lambda center: center * MIRRORS[0]), 0.0)
    assert told.startswith("left and right are exchanged: ")
    assert told.endswith("the body's middle")
    assert name in told


@given(st.sampled_from(PAIRS), st.floats(-2000, 2000))
def test_a_merged_pair_lies_in_the_middle_and_tells_no_side(pair, place):
    merged = {pair: np.array([place, 0.0, 0.0])}
    assert misplaced(merged, place) == []
    assert not can_tell(merged, 0)


def test_merged_organs_tell_what_lies_above_and_in_front():
    lungs, kidneys = ("Right Lung", "Left Lung"), ("Right Kidney", "Left Kidney")
    right_way = {lungs: np.array([0.0, 0, 130]), kidneys: np.array([0.0, 0, 0])}
    assert can_tell(right_way, 2)
    assert misplaced(right_way) == []
    (told,) = misplaced({classes: -center for classes, center in right_way.items()})
    assert told.startswith("top and bottom are exchanged: ")
    assert "Right Lung and Left Lung" in told
    assert "Right Kidney and Left Kidney" in told


@given(subsets)
def test_what_is_no_organ_of_the_atlas_makes_no_difference(names):
    assume(names)
    centers = centers_of(names)
    others = {("Liver Tumor",): np.array([500.0, 500, 500]), ("Kidney Cyst",): np.array([-900.0, 0, -900])}
    assert misplaced(centers | others) == []
    for axis in AXES:
        assert can_tell(centers | others, axis) == can_tell(centers, axis)


@given(subsets, st.sampled_from(AXES))
def test_more_organs_never_tell_less(names, axis):
    assert can_tell(centers_of(NAMES), axis)
    for name in names[:3]:
        fewer = [one for one in names if one != name]
        assert not can_tell(centers_of(fewer), axis) or can_tell(centers_of(names), axis)


def test_nothing_tells_nothing():
    assert misplaced({}) == []
    assert misplaced({}, 12.0) == []
    assert not any(can_tell({}, axis) for axis in AXES)


@given(st.floats(0.0, 7.9))
def test_organs_that_lie_almost_side_by_side_the_wrong_way_are_no_contradiction(mm):
    # A child, a scoliosis: the spleen is at the height of the kidney.
    centers = {("Spleen",): np.array([0.0, 0, 0]), ("Bladder",): np.array([0.0, 0, mm])}
    assert misplaced(centers) == []


moves = st.dictionaries(st.sampled_from(NAMES), st.tuples(*[st.floats(-15, 15)] * 3))


def moved(names, moves, mirror=(1, 1, 1)):
    """Give centers, each moved by up to 15 mm along each axis, of a body that is then mirrored."""
    return {(name,): (atlas().center[name] + moves.get(name, (0, 0, 0))) * np.array(mirror) for name in names}


@given(subsets, moves, st.booleans())
def test_organs_up_to_15_mm_from_their_places_are_not_told(names, moves, knows_middle):
    assert misplaced(moved(names, moves), 0.0 if knows_middle else None) == []


@given(moves, st.sampled_from(AXES))
def test_a_mirrored_axis_is_told_by_organs_that_are_there_and_do_lie_so(moves, axis):
    centers = moved(NAMES, moves, MIRRORS[axis])
    (told,) = misplaced(centers)
    assert told_axes([told]) == {axis}
    named = [name for name in NAMES if re.search(rf"\b{name}\b", told)]
    assert len(named) >= 2
    (mm,) = re.findall(r" lies (\d+) mm ", told)
    apart = [abs(centers[(one,)][axis] - centers[(other,)][axis]) for one in named for other in named]
    assert any(abs(one - float(mm)) <= 0.5 for one in apart)


@given(moves, st.sampled_from([pair for pair in PAIRS if "Adrenal" not in pair[0]]))
def test_an_exchanged_pair_is_told_though_organs_are_not_quite_in_their_places(moves, pair):
    centers = moved(NAMES, moves)
    right, left = ((one,) for one in pair)
    centers[right], centers[left] = centers[left], centers[right]
    (told,) = misplaced(centers)
    assert told.startswith("the sides of an organ are exchanged: ")
    assert all(name in told for name in pair)


@pytest.mark.parametrize("axis", AXES)
def test_a_body_whose_pairs_are_all_merged_tells_each_axis(axis):
    whole = centers_of([name for name in NAMES if not any(name in pair for pair in PAIRS)])
    whole |= {pair: (atlas().center[pair[0]] + atlas().center[pair[1]]) / 2 for pair in PAIRS}
    assert misplaced(whole, 0.0) == []
    (told,) = misplaced({classes: center * MIRRORS[axis] for classes, center in whole.items()}, 0.0)
    assert told_axes([told]) == {axis}


def test_no_two_organs_that_come_15_mm_nearer_each_are_told():
    for one, other in combinations(NAMES, 2):
        toward = np.sign(atlas().center[other] - atlas().center[one]) * 15
        centers = {(one,): atlas().center[one] + toward, (other,): atlas().center[other] - toward}
        assert misplaced(centers) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_organ_that_comes_15_mm_nearer_the_body_s_middle_is_not_told(name):
    center = atlas().center[name]
    assert misplaced({(name,): center}, 15 * np.sign(center[0])) == []
