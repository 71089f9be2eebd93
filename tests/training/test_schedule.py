"""The learning rate over a stage."""

from itertools import pairwise

import pytest

from dsmseg.training.course_settings import Stage
from dsmseg.training.schedule import Schedule


def test_a_plateau_rises_stays_and_falls_to_zero() -> None:
    plan = Stage(length="100 steps", learning_rate=1.0, warm_up="10 steps", cool_down="20 steps")
    rates = [Schedule.of(plan, epoch=1).rate(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert set(rates[9:80]) == {1.0}
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


def test_a_cosine_rises_over_its_epochs_and_falls_to_zero() -> None:
    plan = Stage(length="50 epochs", learning_rate=2.0, schedule="cosine", warm_up="5 epochs")
    schedule = Schedule.of(plan, epoch=10)
    rates = [schedule.rate(step) for step in range(501)]
    assert schedule.steps == 500
    assert rates[49] == pytest.approx(2.0)
    assert rates[275] == pytest.approx(1.0, abs=0.01)
    assert rates[500] == pytest.approx(0.0, abs=1e-9)
    assert all(later <= earlier for earlier, later in pairwise(rates[50:]))


def test_statistics_are_kept_in_the_last_quarter_of_the_cool_down() -> None:
    plan = Stage(length="100 steps", warm_up="10 steps", cool_down="20 steps")
    assert [step for step in range(100) if Schedule.of(plan, epoch=1).cools(step)] == [*range(95, 100)]
    never = Schedule.of(Stage(length="100 steps", cool_down="0 steps"), epoch=1)
    assert not any(never.cools(step) for step in range(100))
