"""Token buckets: no more than the burst at once, no more than the rate in the long run."""

from hypothesis import example, given
from hypothesis import strategies as st

from market.rates import Buckets, Rate

RATES = st.builds(Rate, per_s=st.floats(0.1, 100), burst=st.floats(1, 50))
STEPS = st.lists(st.floats(-1, 5), max_size=60)


@given(rate=RATES, steps=STEPS)
@example(rate=Rate(per_s=1, burst=1), steps=[-1.0, 1.0])
def test_no_more_pass_than_the_rate_allows(rate: Rate, steps: list[float]) -> None:
    """Also when the clock jumps back: what passed is at most the burst and the rate times the time that went forward."""
    buckets, now_s, passed = Buckets(rate), 0.0, 0
    first_s = latest_s = steps[0] if steps else 0.0
    for step in steps:
        now_s += step
        latest_s = max(latest_s, now_s)
        passed += buckets.take("ann", now_s) == 0
    assert passed <= rate.burst + rate.per_s * (latest_s - first_s) + 1e-6


@given(rate=RATES)
def test_who_waits_as_long_as_told_is_served(rate: Rate) -> None:
    buckets = Buckets(rate)
    while (wait_s := buckets.take("ann", 0.0)) == 0:
        continue
    assert buckets.take("ann", wait_s * 0.9) > 0
    assert buckets.take("ann", wait_s * 1.001) == 0
    assert buckets.take("bob", 0.0) == 0, "everybody has a bucket of one's own"


def test_the_longest_silent_are_forgotten() -> None:
    buckets = Buckets(Rate(per_s=1, burst=1), most=2)
    for name in ("ann", "bob", "cid"):
        assert buckets.take(name, 0.0) == 0
    assert buckets.take("cid", 0.0) > 0
    assert buckets.take("ann", 0.0) == 0, "forgotten, so full again"
