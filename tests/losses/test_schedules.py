from __future__ import annotations

import pytest

from seglab.errors import ConfigError
from seglab.losses import Criterion, CrossEntropy, Dice
from seglab.losses.schedules import CosineRamp, LinearRamp, Steps


def test_a_ramp_goes_from_start_to_stop_and_stays():
    ramp = LinearRamp(1.0, 3.0, steps=10, begin=5)
    assert [ramp(step) for step in (0, 5, 10, 15, 100)] == [1, 1, 2, 3, 3]


def test_a_cosine_ramp_is_slow_at_both_ends():
    ramp = CosineRamp(0.0, 1.0, steps=8)
    assert [ramp(step) for step in (0, 4, 8)] == [0, pytest.approx(0.5), 1]
    assert ramp(1) < 1 / 8 < ramp(7) - ramp(6) + 1 / 8


def test_steps_hold_from_their_milestone_on():
    steps = Steps([0.0, 1.0, 0.5], [100, 200])
    assert [steps(step) for step in (0, 99, 100, 199, 200)] == [0, 0, 1, 1, 0.5]


def test_a_ramp_may_take_a_fraction_of_the_training_and_is_over_where_nothing_is_trained():
    ramp = LinearRamp(0.0, 1.0, steps=0.1)
    assert ramp(0) == 1
    criterion = Criterion({"main": CrossEntropy(weight=ramp), "other": Dice(weight=0.5)})
    criterion.training_takes(40)
    assert [ramp(step) for step in (0, 1, 2, 4, 40)] == [0, 0.25, 0.5, 1, 1]
    criterion.training_takes(3)  # a training of fewer steps than the fraction could be shared out over
    assert [ramp(step) for step in (0, 1)] == [0, 1]


def test_milestones_and_the_begin_of_a_ramp_may_be_fractions_of_the_training():
    steps = Steps([0.0, 0.3], [0.333])
    assert steps(0) == 0.3, "where nothing is trained, the warm-up is over"
    ramp = LinearRamp(0.0, 1.0, steps=2, begin=0.5)
    criterion = Criterion({"main": CrossEntropy(weight=steps), "other": Dice(weight=ramp)})
    criterion.training_takes(30)
    assert [steps(step) for step in (0, 9, 10, 30)] == [0, 0, 0.3, 0.3]
    assert [ramp(step) for step in (14, 15, 16, 17, 30)] == [0, 0, 0.5, 1, 1]
    criterion.training_takes(2)
    assert [steps(step) for step in (0, 1)] == [0, 0.3]


def test_schedules_that_cannot_be_are_refused():
    for wrong in (
        lambda: LinearRamp(-1.0, 1.0, 5),
        lambda: CosineRamp(0.0, 1.0, 0),
        lambda: Steps([1.0], [5]),
        lambda: Steps([1.0, 2.0, 3.0], [5, 5]),
        lambda: Steps([1.0, 2.0, 3.0], [0.5, 5]),
    ):
        with pytest.raises(ConfigError, match="weight"):
            wrong()
