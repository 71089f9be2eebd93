"""DSC beside scikit-learn, and the policy for empty masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import blob
from sklearn.metrics import f1_score

from dsmseg.errors import InputError
from dsmseg.evaluation.overlap import OverlapCounts, count_overlap
from dsmseg.evaluation.policy import METRICS, Outcome, Presence, metric


@given(st.integers(0, 10_000))
def test_dsc_is_the_f1_score_of_voxels(seed: int) -> None:
    one, other = blob(seed), blob(seed + 1)
    assert count_overlap(one, other).dsc == pytest.approx(f1_score(one.ravel(), other.ravel()))


def test_pooled_counts_are_those_of_all_voxels() -> None:
    pooled = count_overlap(blob(0), blob(1)) + count_overlap(blob(2), blob(3))
    both = np.concatenate([blob(0), blob(2)]), np.concatenate([blob(1), blob(3)])
    assert pooled == count_overlap(*both)


@pytest.mark.parametrize(
    ("counts", "presence"),
    [
        (OverlapCounts(3, 1, 1), Presence.BOTH),
        (OverlapCounts(0, 1, 1), Presence.BOTH),
        (OverlapCounts(0, 1, 0), Presence.MISSED),
        (OverlapCounts(0, 0, 1), Presence.SPURIOUS),
        (OverlapCounts(), Presence.NEITHER),
    ],
)
def test_presence(counts: OverlapCounts, presence: Presence) -> None:
    assert counts.presence is presence


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("presence", Presence)
def test_the_policy_never_gives_nan_and_measures_only_where_it_says_so(name: str, presence: Presence) -> None:
    calls = []

    def measure() -> float:
        calls.append(1)
        return 0.5

    one = metric(name)
    value = one.settle(presence, measure, 123.0)
    outcome = one.outcomes[list(Presence).index(presence)]
    assert bool(calls) == (outcome is Outcome.MEASURED)
    expected = {Outcome.MEASURED: 0.5, Outcome.LEFT_OUT: None, Outcome.WORST: 123.0 if one.worst is None else one.worst}
    assert value == expected[outcome]


def test_a_missed_structure_gets_the_worst_and_is_never_left_out() -> None:
    for name in ("dsc", "nsd", "hd95_mm", "lesion_sensitivity"):
        assert metric(name).settle(Presence.MISSED, lambda: None, 77.0) == (77.0 if name == "hd95_mm" else 0.0)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(InputError, match="dsc"):
        metric("dice")


def test_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        count_overlap(np.ones((2, 2, 2), bool), np.ones((2, 2, 3), bool))
