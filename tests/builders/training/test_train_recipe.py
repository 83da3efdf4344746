import itertools

import pytest

from fv2es_builders.errors import BuildUsageError
from fv2es_builders.training.recipe import Recipe


def test_rate_rises_in_a_line_then_falls_to_zero():
    recipe = Recipe(epochs=1, batch=1, learning_rate=2.0, warmup=0.2)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[:20] == pytest.approx([0.1 * (step + 1) for step in range(20)])
    assert rates[20] == 2.0
    assert all(first > second for first, second in itertools.pairwise(rates[20:]))
    assert rates[60] == pytest.approx(1.0)
    assert 0 < rates[99] < 0.002


def test_without_warm_up_the_first_step_is_the_fastest():
    assert Recipe(epochs=1, batch=1, learning_rate=2.0, warmup=0.0).rate(0, 7) == 2.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"patience": 0}, "patience=0"),
        ({"learning_rate": 0.0}, "learning_rate=0 must be > 0"),
        ({"warmup": 1.0}, "warmup=1"),
        ({"average": float("nan")}, "average=nan"),
    ],
)
def test_numbers_outside_their_rule_are_refused(wrong, said):
    with pytest.raises(BuildUsageError, match=said):
        Recipe(**{"epochs": 1, "batch": 1, "learning_rate": 1.0, **wrong})
