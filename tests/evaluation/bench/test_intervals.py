"""Intervals know which cases were tested and which seed a training had."""

import numpy as np
import pytest

from dsmseg.evaluation.bench.detection import Detection, sensitivity_at
from dsmseg.evaluation.bench.intervals import Draws, Interval, means_by_seed, sensitivities_by_seed
from dsmseg.evaluation.bootstrap import mean_interval


def interval(values):
    values = np.array(values, np.float64)
    draws = Draws.of(values.shape[1], values.shape[0])
    return Interval.of(draws.over_seeds(means_by_seed(values, draws)), values.shape[1])


def test_the_figure_is_the_mean_and_with_one_seed_the_interval_is_that_over_cases():
    values = np.random.default_rng(0).normal(0.7, 0.1, (1, 30))
    found = interval(values)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(mean_interval(values[0]), abs=0.005)


def test_seeds_that_differ_widen_it_where_cases_do_not():
    alike = interval([[0.5, 0.6, 0.7]] * 3)
    apart = interval([[0.3, 0.4, 0.5], [0.5, 0.6, 0.7], [0.7, 0.8, 0.9]])
    assert alike.value == pytest.approx(apart.value)
    assert apart.high - apart.low > 2 * (alike.high - alike.low)
    constant = interval([[0.2] * 8, [0.8] * 8])
    assert (constant.low, constant.high) == pytest.approx((0.2, 0.8))


def test_nominal_95_percent_hold_the_truth_about_as_often():
    chance = np.random.default_rng(1)
    held = 0
    for _ in range(100):
        values = chance.normal(0, 1, (8, 1)) + chance.normal(0, 1, (1, 24)) + chance.normal(0, 1, (8, 24))
        found = interval(values)
        held += found.low <= 0 <= found.high
    assert 85 <= held <= 100


def test_a_case_or_seed_without_a_figure_is_left_out():
    found = interval([[0.5, np.nan, 0.7], [np.nan, np.nan, np.nan]])
    assert found.value == pytest.approx(0.6)
    assert interval([[np.nan, np.nan]]).value is None
    assert interval([[0.5]]) == Interval(0.5, None, None)


def test_the_first_draw_of_sensitivity_is_that_of_all_cases():
    chance = np.random.default_rng(2)
    cases = [
        Detection([10.0] * 3, (chance.random((4, 3)) < 0.6).tolist(), sorted(chance.integers(0, 4, 4).tolist())[::-1])
        for _ in range(6)
    ]
    cases.append(Detection([], [[]] * 4, [2, 1, 0, 0]))
    draws = Draws.of(len(cases), 1)
    found = sensitivities_by_seed([cases], draws)
    assert found[0, 0] == sensitivity_at(cases, 1.0).share
    assert found.shape == (len(draws.cases), 1)
    assert np.nanmin(found) < found[0, 0] < np.nanmax(found)


def test_a_case_that_was_not_scored_counts_as_no_scan():
    one = Detection([10.0], [[True]], [1])
    draws = Draws.of(2, 1)
    assert sensitivities_by_seed([[one, None]], draws)[0, 0] == 1
    assert sensitivities_by_seed([[one, Detection([], [[]], [2])]], draws)[0, 0] == 0  # 1.5 false a scan are too many
