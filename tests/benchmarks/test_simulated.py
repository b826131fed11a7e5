"""Simulated trials whose strategy is retuned on the way."""

import pytest

from benchmarks.simulated import script_of
from benchmarks.training import retunes_of
from trainers.options import strategy_options


def test_a_retuned_job_has_its_new_options_from_the_next_boundary_on():
    first = strategy_options({"name": "diloco", "inner_steps": 3})
    script = script_of(first, 2, retunes_of(["400:outer_lr=0.5", "100:inner_steps=7"]))
    assert sorted(script.strategies) == [1, 35, 78]  # 34 rounds of 3 steps, then 43 of 7: steps 102 and 403
    assert [script.strategies[one]["inner_steps"] for one in (1, 35, 78)] == [3, 7, 7]
    assert [script.strategies[one]["outer_lr"] for one in (1, 35, 78)] == [0.7, 0.7, 0.5]
    assert script_of(first, 2, ()).strategies == {1: first}


@pytest.mark.parametrize("given", ["inner_steps=7", "x:inner_steps=7", "10:inner_steps"])
def test_what_is_no_retuning_is_refused(given):
    with pytest.raises(ValueError, match="give STEP:OPTION=VALUE"):
        retunes_of([given])
