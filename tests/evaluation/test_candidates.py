"""Candidate lesions of score maps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.errors import InputError
from dsmseg.evaluation.candidates import THRESHOLDS, find_candidates, joined
from dsmseg.evaluation.lesions import match_lesions


def a_map(seed: int, shape=(9, 8, 7)) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32) ** 3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(range(len(THRESHOLDS))))
def test_at_each_threshold_the_candidates_are_the_parts_and_hit_what_match_lesions_says(seed, level):
    scores = a_map(seed)
    reference = a_map(seed + 1) > 0.6
    found = find_candidates(scores, reference, 0.5)
    own = np.flatnonzero(found.level == level)
    matches = match_lesions(reference, scores > THRESHOLDS[level])
    hits = np.zeros(matches.hits.shape, bool)
    pairs = found.hits[np.isin(found.hits[:, 0], own)]
    hits[pairs[:, 1], pairs[:, 0] - (own[0] if len(own) else 0)] = True
    np.testing.assert_array_equal(hits, matches.hits)
    assert found.lesions == matches.hits.shape[0]


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_voxels_scores_and_shared_voxels_add_up_to_those_of_the_map(seed):
    scores, reference = a_map(seed), a_map(seed + 1) > 0.5
    found = find_candidates(scores, reference, 0.25)
    for level, threshold in enumerate(THRESHOLDS):
        own, above = found.level == level, scores > threshold
        assert found.voxels[own].sum() == above.sum()
        assert found.shared[own].sum() == (above & reference).sum()
        assert (found.mean_score * found.voxels)[own].sum() == pytest.approx(scores[above].sum(), rel=1e-5)
    np.testing.assert_array_equal(found.volume_ml, found.voxels * 0.25)


def test_a_part_with_a_quarter_of_tumor_is_a_lesion_and_one_with_less_is_false():
    scores = np.zeros((12, 1, 1), np.float32)
    scores[0:4] = scores[6:11] = 0.9
    reference = np.zeros(scores.shape, bool)
    reference[0] = reference[6] = True
    found = find_candidates(scores, reference, 1.0, [0.5])
    assert found.voxels.tolist() == [4, 5]
    assert found.true.tolist() == [True, False]


def test_scans_beside_each_other_keep_their_own_lesions():
    scores, reference = a_map(1), a_map(2) > 0.6
    alone = find_candidates(scores, reference, 1.0)
    empty = find_candidates(np.zeros((4, 4, 4), np.float32), None, 1.0)
    both = joined([alone, empty, alone])
    assert (both.scans, both.lesions) == (3, 2 * alone.lesions)
    rows = len(alone.level)
    assert set(both.scan.tolist()) == {0, 2}
    np.testing.assert_array_equal(both.hits[len(alone.hits) :], alone.hits + np.array([rows, alone.lesions]))
    assert both.reference_voxels.tolist() == [reference.sum(), 0, reference.sum()]


def test_a_reference_on_another_grid_is_refused():
    with pytest.raises(InputError, match="shape"):
        find_candidates(np.zeros((3, 3, 3), np.float32), np.zeros((3, 3, 4), bool), 1.0)
