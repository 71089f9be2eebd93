"""Lesions found by threshold and diameter, and the false ones that they cost."""

import numpy as np
import pytest

from dsmseg.evaluation.bench.detection import Detection, detect, lesion_diameters, sensitivity_at

SPACING = (2.0, 2.0, 3.0)


def a_scan():
    """Give scores and a reference: a lesion of 0.9, one of 0.3, a false lesion of 0.6."""
    scores, reference = np.zeros((30, 30, 20), np.float32), np.zeros((30, 30, 20), bool)
    reference[2:6, 2:6, 2:6] = True
    reference[20:22, 20:22, 10:12] = True
    scores[3:6, 2:6, 2:6] = 0.9
    scores[20:22, 20:22, 10:12] = 0.3
    scores[10:12, 10:12, 2:4] = 0.6
    return scores, reference


def test_each_threshold_finds_what_scores_above_it_and_pays_for_what_is_false():
    found = detect(*a_scan(), SPACING, thresholds=(0.1, 0.5, 0.7, 0.95))
    assert found.found == [[True, True], [True, False], [True, False], [False, False]]
    assert found.false == [1, 1, 0, 0]


def test_a_part_that_is_hardly_tumor_finds_nothing_and_is_false():
    scores, reference = a_scan()
    found = detect(np.ones_like(scores), reference, SPACING, thresholds=(0.5,))
    assert found.found == [[False, False]]
    assert found.false == [1]


def test_diameters_are_the_longest_extent_in_mm():
    mask = np.zeros((40, 10, 10), bool)
    mask[5:25, 2, 2] = True
    (along,) = lesion_diameters(mask, SPACING)
    assert along == pytest.approx(40, abs=1)


def test_the_best_threshold_that_is_allowed_counts_and_sizes_are_told_apart():
    first = detect(*a_scan(), SPACING, thresholds=(0.1, 0.5, 0.7))
    healthy = Detection([], [[], [], []], [3, 0, 0])
    assert sensitivity_at([first, healthy], 2).share == 1
    at_half = sensitivity_at([first, healthy], 0.5)
    assert (at_half.lesions, at_half.found, at_half.false_per_scan) == (2, 1, 0)
    large, small = sorted(first.diameters_mm)[::-1]
    assert sensitivity_at([first, healthy], 0.5, (large, np.inf)).share == 1
    assert sensitivity_at([first, healthy], 0.5, (0, small + 0.1)).share == 0
    assert sensitivity_at([healthy], 0.5).share is None


def test_where_every_threshold_leaves_too_many_false_lesions_nothing_is_told():
    assert sensitivity_at([Detection([10.0], [[True]], [4])], 1) is None
    assert sensitivity_at([], 1) is None
