"""Operating points of score maps that are drawn by hand."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.evaluation.candidates import THRESHOLDS, Candidates, find_candidates, joined
from dsmseg.evaluation.operating_points import (
    LEAST_VOLUMES_ML,
    Outcome,
    best,
    lowest_threshold,
    operating_point,
    outcomes,
    point_without_lesions,
)

SHAPE = (24, 24, 24)
VOXEL_ML = 0.027  # 3 mm
CUBES = [(2, 2, 2), (2, 14, 2), (14, 2, 2), (14, 14, 2), (2, 2, 14)]


def scan(tumors=(), false=(), *, p=0.3, q=0.3, size=5, false_size=5) -> Candidates:
    """Draw cubes of tumor with score ``p``, and cubes without with score ``q``, on a ground of 0.01."""
    scores, reference = np.full(SHAPE, 0.01, np.float32), np.zeros(SHAPE, bool)
    for places, value, side in ((tumors, p, size), (false, q, false_size)):
        for number in places:
            box = tuple(slice(start, start + side) for start in CUBES[number])
            scores[box] = value
            if places is tumors:
                reference[box] = True
    return find_candidates(scores, reference, VOXEL_ML)


def at_least(score: float) -> float:
    """Give the lowest threshold that a score is not above."""
    return next(one for one in THRESHOLDS if one >= score)


def kept(maps: Candidates, point) -> tuple[int, int]:
    """Count lesions found and false lesions at a point, candidate by candidate."""
    level = maps.thresholds.index(point.threshold)
    found, false = set(), 0
    for number in np.flatnonzero(maps.level == level):
        if maps.volume_ml[number] < point.least_volume_ml or maps.mean_score[number] < point.least_score:
            continue
        if maps.true[number]:
            found |= {lesion for one, lesion in maps.hits.tolist() if one == number}
        else:
            false += 1
    return len(found), false


def test_a_rare_class_that_ranks_right_below_one_half_is_found_by_a_lower_threshold():
    point = operating_point(joined([scan([0, 1], p=0.2), scan([2], p=0.3), scan()]))
    assert 0.01 < point.threshold < 0.2
    assert (point.sensitivity, point.false_lesions, point.cases, point.lesions) == (1.0, 0.0, 3, 3)
    assert point.searched
    assert (point.least_volume_ml, point.least_score) == (0.0, 0.0)


def test_small_false_lesions_are_kept_out_by_a_least_volume_where_no_threshold_can():
    point = operating_point(joined([scan([0], [1, 2, 3], q=0.6, false_size=1), scan([], [0, 1], q=0.6, false_size=1)]))
    assert VOXEL_ML < point.least_volume_ml <= 125 * VOXEL_ML
    assert point.false_lesions <= 0.5
    assert point.sensitivity == 1.0


def test_faint_false_lesions_are_kept_out_by_a_least_score_or_threshold():
    point = operating_point(joined([scan([0], [1, 2, 3], p=0.6, q=0.3), scan([], [0, 1], q=0.3)]))
    assert max(point.threshold, point.least_score) >= 0.3
    assert (point.sensitivity, point.false_lesions) == (1.0, 0.0)


def test_a_class_that_cannot_be_told_from_false_lesions_is_not_searched_and_says_why():
    point = operating_point(joined([scan([0], [1, 2, 3], p=0.3, q=0.6)]))
    assert not point.searched
    assert "0% of 1 lesions" in point.reason


def test_one_false_lesion_a_scan_is_enough_to_be_searched_though_the_point_allows_one_half():
    point = operating_point(joined([scan([0], [1], p=0.3, q=0.6), scan([0], [1], p=0.3, q=0.6)]))
    assert point.searched
    assert point.false_lesions <= 0.5


def test_a_mask_over_the_whole_organ_finds_nothing():
    scores, reference = np.full(SHAPE, 0.9, np.float32), np.zeros(SHAPE, bool)
    reference[4:6, 4:6, 4:6] = True
    assert not operating_point(find_candidates(scores, reference, VOXEL_ML)).searched


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0.02, 0.98), st.floats(0.02, 0.98)),
        min_size=1,
        max_size=4,
    )
)
def test_what_a_point_promises_is_what_it_does_and_never_more_false_than_asked(scans):
    maps = joined([scan(range(n), range(n, min(5, n + m)), p=p, q=q) for n, m, p, q in scans])
    point = operating_point(maps)
    found, false = kept(maps, point)
    assert false == round(point.false_lesions * maps.scans)
    if maps.lesions:
        assert found == round(point.sensitivity * maps.lesions)
    allowed = [one for one in outcomes(maps) if one.false_lesions <= 0.5]
    if allowed:
        assert point.false_lesions <= 0.5
        if maps.lesions:  # never more than one standard error (at most 0.29, of one lesion) below the best
            assert point.sensitivity >= max(one.sensitivity for one in allowed) - 0.29


A = Outcome(0.5, 0.0, 0.0, 0.9, 0.4, 0.5)


@pytest.mark.parametrize(
    ("other", "lesions"),
    [
        (replace(A, sensitivity=0.8), 100),  # lower by more than a standard error
        (replace(A, sensitivity=0.95, dice=0.3), 10),  # higher by less than one, and worse masks
        (replace(A, least_volume_ml=0.1), 10),  # as good, and less simple
        (replace(A, false_lesions=0.5), 10),  # as good and as simple, and more false ones
        (replace(A, threshold=0.4), 10),  # the same with a lower threshold
        (replace(A, sensitivity=1.0, false_lesions=0.6), 10),  # more false ones than allowed
    ],
)
def test_of_two_points_the_better_wins_whatever_their_order(other, lesions):
    assert best([A, other], lesions, 0.5) == A
    assert best([other, A], lesions, 0.5) == A


def test_no_point_is_given_where_none_has_so_few_false_lesions():
    assert best([A], 10, 0.1) is None


def test_without_tumors_the_threshold_is_the_lowest_with_few_false_lesions():
    healthy = joined([scan([], [0], q=0.3), scan([], [1], q=0.6), scan(), scan()])
    threshold = lowest_threshold(healthy, 0.25)
    assert threshold == at_least(0.3)
    assert lowest_threshold(healthy, 0.5) == at_least(0.01)
    assert lowest_threshold(healthy, 0.0, least_volume_ml=126 * VOXEL_ML) == at_least(0.01)


def test_without_tumors_a_threshold_at_which_false_lesions_grow_together_is_not_taken():
    scores = np.full(SHAPE, 0.1, np.float32)
    for place in CUBES[:3]:
        scores[tuple(slice(start, start + 3) for start in place)] = 0.7
    assert lowest_threshold(find_candidates(scores, None, VOXEL_ML), 1.0) == at_least(0.7)


def test_a_point_without_lesions_says_that_what_it_finds_is_not_known():
    healthy = joined([scan([], [0], q=0.3), scan()])
    point = operating_point(healthy)
    assert point == point_without_lesions(healthy)
    assert (point.sensitivity, point.lesions, point.searched, point.false_lesions) == (None, 0, True, 0.5)
    assert "not known" in point.reason
    always = find_candidates(np.ones(SHAPE, np.float32), None, VOXEL_ML)
    assert not point_without_lesions(always).searched


def test_least_volumes_are_balls_of_the_diameters_that_reports_begin_at():
    assert LEAST_VOLUMES_ML[-1] == pytest.approx(0.5236, abs=1e-4)
    assert list(LEAST_VOLUMES_ML) == sorted(LEAST_VOLUMES_ML)
