"""Means, standard errors, and the paired bootstrap."""

import numpy as np
import pytest
from scipy import stats

from dsmseg.errors import InputError
from dsmseg.evaluation.bootstrap import mean_interval, paired_bootstrap
from dsmseg.evaluation.summaries import Summary

CHANCE = np.random.default_rng(0)


def test_mean_and_se_are_scipys_and_what_is_left_out_does_not_count() -> None:
    values = CHANCE.random(17).tolist()
    summary = Summary.of([*values, None, None])
    assert summary.n == 17
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.se == pytest.approx(stats.sem(values))


def test_one_case_has_no_se_and_none_has_no_mean() -> None:
    assert Summary.of([0.5]) == Summary(1, 0.5, None)
    assert Summary.of([None]) == Summary(0, None, None)


def test_is_printed_as_in_the_papers_tables() -> None:
    assert Summary(63, 0.88614, 0.006449).text() == "88.61±0.64"
    assert Summary(1, 0.5, None).text() == "50.00"
    assert Summary(3, 4.5, 0.25).text("mm") == "4.50±0.25"
    assert Summary(0, None, None).text() == "-"


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    values = CHANCE.random(40)
    low, high = mean_interval(values.tolist())
    peer = stats.bootstrap((values,), np.mean, method="percentile", rng=1).confidence_interval
    assert (low, high) == pytest.approx((peer.low, peer.high), abs=0.01)
    assert mean_interval([0.4, None]) is None


def test_a_clear_difference_is_seen_and_none_is_not() -> None:
    second = CHANCE.random(30)
    better = paired_bootstrap((second + 0.1 + 0.01 * CHANCE.standard_normal(30)).tolist(), second.tolist())
    assert better.difference == pytest.approx(0.1, abs=0.01)
    assert better.low < better.difference < better.high
    assert better.p < 0.001
    same = paired_bootstrap(second.tolist(), second.tolist())
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_p_is_near_that_of_the_t_test() -> None:
    first, second = CHANCE.random(60), CHANCE.random(60) + 0.08
    found = paired_bootstrap(first.tolist(), second.tolist())
    assert found.p == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=0.02)


def test_swapping_the_methods_turns_the_difference_around() -> None:
    first, second = CHANCE.random(20).tolist(), CHANCE.random(20).tolist()
    forth, back = paired_bootstrap(first, second, seed=3), paired_bootstrap(second, first, seed=3)
    assert forth.difference == pytest.approx(-back.difference)
    assert forth.low == pytest.approx(-back.high)
    assert forth.p == pytest.approx(back.p)


def test_the_seed_decides() -> None:
    first, second = CHANCE.random(20).tolist(), CHANCE.random(20).tolist()
    assert paired_bootstrap(first, second, seed=5) == paired_bootstrap(first, second, seed=5)
    assert paired_bootstrap(first, second, seed=5) != paired_bootstrap(first, second, seed=6)


def test_only_cases_with_figures_of_both_count() -> None:
    assert paired_bootstrap([0.1, None, 0.3, 0.2], [0.2, 0.4, 0.1, None]).n == 2


@pytest.mark.parametrize(("first", "second"), [([0.1], [0.2]), ([0.1, 0.2], [0.1]), ([0.1, None], [None, 0.1])])
def test_too_little_to_compare_is_refused(first, second) -> None:
    with pytest.raises(InputError):
        paired_bootstrap(first, second)
