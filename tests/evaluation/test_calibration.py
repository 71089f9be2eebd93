"""Expected calibration error."""

import numpy as np
import pytest

from dsmseg.errors import InputError
from dsmseg.evaluation.calibration import count_calibration

CHANCE = np.random.default_rng(0)
SCORES = CHANCE.random((30, 40, 50))


def plain_ece(scores, truth, bins: int) -> float:
    places = np.minimum((scores * bins).astype(int), bins - 1).ravel()
    scores, truth = scores.ravel(), truth.ravel()
    parts = [(places == one) for one in range(bins)]
    return sum(part.mean() * abs(truth[part].mean() - scores[part].mean()) for part in parts if part.any())


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_is_the_textbook_sum(bins: int) -> None:
    truth = CHANCE.random(SCORES.shape) < SCORES**2
    assert count_calibration(SCORES, truth, bins=bins).ece == pytest.approx(plain_ece(SCORES, truth, bins))


def test_scores_that_mean_what_they_say_have_almost_none() -> None:
    truth = CHANCE.random(SCORES.shape) < SCORES
    assert count_calibration(SCORES, truth).ece < 0.02
    table = count_calibration(SCORES, truth).table()
    assert sum(row["voxels"] for row in table) == SCORES.size
    assert all(abs(row["share"] - row["mean_score"]) < 0.05 for row in table)


def test_adds_up_over_scans_and_keeps_to_the_region() -> None:
    truth = CHANCE.random(SCORES.shape) < 0.3
    region = CHANCE.random(SCORES.shape) < 0.5
    both = count_calibration(SCORES, truth, region) + count_calibration(SCORES, truth, ~region)
    assert both.ece == pytest.approx(count_calibration(SCORES, truth).ece)


def test_no_voxels_is_no_figure_and_empty_bins_are_told() -> None:
    nothing = count_calibration(SCORES, SCORES > 2, SCORES > 2)
    assert nothing.ece is None
    assert nothing.table()[0]["share"] is None
    assert count_calibration(np.ones((2, 2, 2)), np.ones((2, 2, 2), bool)).ece == 0


@pytest.mark.parametrize("scores", [SCORES * 2, SCORES - 0.5, SCORES * np.nan])
def test_what_is_no_probability_is_refused(scores) -> None:
    with pytest.raises(InputError, match="0 to 1"):
        count_calibration(scores, SCORES > 0.5)
