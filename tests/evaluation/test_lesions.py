"""Lesion by lesion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from shapes import blob, cube

from dsmseg.errors import InputError
from dsmseg.evaluation.lesions import Cut, Froc, LesionCounts, lesion_mask, match_lesions

SHAPE = (20, 20, 20)
EMPTY = np.zeros(SHAPE, bool)
A, B = cube(SHAPE, (1, 4), (1, 4), (1, 4)), cube(SHAPE, (10, 14), (10, 14), (10, 14))
FALSE = cube(SHAPE, (17, 19), (1, 3), (1, 3))


def test_counts_on_known_lesions() -> None:
    counts = match_lesions(A | B, cube(SHAPE, (3, 6), (3, 6), (3, 6)) | FALSE).counts
    assert counts == LesionCounts(reference=2, hit=1, predicted=2, false=1, scans=1)
    assert (counts.sensitivity, counts.precision, counts.false_per_scan) == (0.5, 0.5, 1.0)


def test_a_voxel_that_touches_by_a_corner_belongs_to_the_lesion() -> None:
    corner = cube(SHAPE, (4, 5), (4, 5), (4, 5))
    assert match_lesions(A | corner, EMPTY).counts.reference == 1


def test_the_hit_criterion_is_any_overlap_or_an_intersection_over_union() -> None:
    shifted = cube(SHAPE, (2, 5), (1, 4), (1, 4))  # 18 of 36 voxels in common
    assert match_lesions(A, shifted, least_iou=0.5).counts.hit == 1
    assert match_lesions(A, shifted, least_iou=0.51).counts.hit == 0
    assert match_lesions(A, cube(SHAPE, (3, 10), (3, 10), (3, 10))).counts.hit == 1
    assert match_lesions(A, cube(SHAPE, (4, 7), (1, 4), (1, 4))).counts.hit == 0  # beside it


def test_one_mask_over_two_lesions_finds_both() -> None:
    counts = match_lesions(A | B, np.ones(SHAPE, bool)).counts
    assert (counts.hit, counts.predicted, counts.false) == (2, 1, 0)


def test_healthy_scans_count_their_false_lesions() -> None:
    counts = (
        match_lesions(EMPTY, A | FALSE).counts + match_lesions(EMPTY, EMPTY).counts + match_lesions(A, FALSE).counts
    )
    assert (counts.scans, counts.healthy, counts.false, counts.false_healthy) == (3, 2, 3, 2)
    assert counts.false_per_healthy_scan == 1.0
    assert counts.precision == 0
    assert LesionCounts().sensitivity is None
    assert match_lesions(EMPTY, EMPTY).counts.precision is None


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.1, 0.5]))
def test_a_slow_count_gives_the_same(seed: int, least_iou: float) -> None:
    reference, prediction = blob(seed, share=0.05), blob(seed + 1, share=0.08) | blob(seed, share=0.01)
    lesions, wanted = ndimage.label(reference, np.ones((3, 3, 3)))
    parts, found = ndimage.label(prediction, np.ones((3, 3, 3)))
    hits = np.zeros((wanted, found), bool)
    for i in range(wanted):
        for j in range(found):
            one, other = lesions == i + 1, parts == j + 1
            shared = (one & other).sum()
            hits[i, j] = shared > 0 and shared / (one | other).sum() >= least_iou
    counts = match_lesions(reference, prediction, least_iou=least_iou).counts
    assert (counts.hit, counts.false) == (hits.any(axis=1).sum(), found - hits.any(axis=0).sum())


def test_froc_on_known_scores() -> None:
    scores = np.zeros(SHAPE)
    scores[A], scores[FALSE], scores[B] = 0.9, 0.8, 0.3
    froc = match_lesions(A | B, A | B | FALSE, scores=scores).froc
    assert froc.sensitivity_at(0) == 0.5
    assert froc.sensitivity_at(0.99) == 0.5
    assert froc.sensitivity_at(1) == 1.0
    assert froc.curve() == [(0.0, 0.5), (1.0, 0.5), (1.0, 1.0)]
    assert froc.mean_sensitivity() == pytest.approx((3 * 0.5 + 4 * 1.0) / 7)


def test_froc_of_scans_is_that_of_all_their_lesions() -> None:
    scores = np.where(A, 0.9, 0.0)
    pooled = match_lesions(A, A, scores=scores).froc + match_lesions(EMPTY, FALSE, scores=scores + 0.95).froc
    assert pooled.scans == 2
    assert pooled.sensitivity_at(0.25) == 0.0
    assert pooled.sensitivity_at(0.5) == 1.0
    assert match_lesions(A, FALSE, scores=scores).froc.found.tolist() == [-np.inf]


def test_a_lesion_that_ties_with_what_is_not_allowed_is_not_found() -> None:
    assert Froc(np.array([0.5]), np.array([0.5]), 1).sensitivity_at(0) == 0.0


def test_no_lesions_is_no_froc() -> None:
    froc = match_lesions(EMPTY, EMPTY, scores=np.zeros(SHAPE)).froc
    assert froc.mean_sensitivity() is None
    assert froc.curve() == []
    with pytest.raises(InputError, match="score map"):
        match_lesions(A, A).froc  # noqa: B018


@pytest.mark.parametrize("least_iou", [-0.1, 1.1, np.nan])
def test_a_criterion_that_is_no_share_is_refused(least_iou: float) -> None:
    with pytest.raises(InputError, match="intersection over union"):
        match_lesions(A, A, least_iou=least_iou)


@given(st.integers(0, 999), st.floats(0.05, 0.9), st.floats(0, 12), st.floats(0, 1))
def test_a_score_map_is_cut_lesion_by_lesion(seed, threshold, least_ml, least_score) -> None:
    scores = np.random.default_rng(seed).random((7, 6, 5)).astype(np.float32) ** 2
    parts, count = ndimage.label(scores > threshold, np.ones((3, 3, 3)))
    expected = np.zeros(scores.shape, bool)
    for number in range(1, count + 1):
        part = parts == number
        expected |= part & (part.sum() * 0.5 >= least_ml) & (scores[part].mean(dtype=np.float64) >= least_score)
    assert np.array_equal(lesion_mask(scores, 0.5, Cut(threshold, least_ml, least_score)), expected)
