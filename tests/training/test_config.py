import dataclasses
import math

import pytest

from prescore.errors import PrescoreError
from prescore.training.config import TrainingConfig


def test_learning_rate_warms_up_stays_and_falls():
    config = TrainingConfig(steps=10, warmup=4, cooldown=3, learning_rate=1.0)
    rates = [config.learning_rate_at(step) for step in range(10)]
    assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1, 2 / 3, 1 / 3])


def test_learning_rate_without_warm_up_or_cool_down():
    config = TrainingConfig(steps=3, warmup=0, cooldown=0, learning_rate=0.5)
    assert [config.learning_rate_at(step) for step in range(3)] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: 0 is less than 1"),
        ({"learning_rate": math.nan}, "learning_rate: nan is not a positive number"),
        ({"warmup": -1}, "warmup: -1 is less than 0"),
        ({"ema_decay": 1.0}, "ema_decay: 1.0 is not in"),
        ({"beta2": 1.5}, "beta2: 1.5 is not in"),
        ({"clip": math.inf}, "clip: inf is not a norm; .* 0 for no clipping"),
        ({"precision": "float61"}, r"precision: unknown value 'float61'; did you mean float16"),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(PrescoreError, match=message):
        dataclasses.replace(TrainingConfig(), **changes)
