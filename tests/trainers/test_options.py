"""Options of the strategies: defaults that fit together, and one clear sentence for what cannot be taken."""

import subprocess
import sys

import pytest

from trainers.options import (
    SAID_ONLY_WHERE_USED,
    STRATEGIES,
    OptionError,
    parse_codec,
    round_steps,
    strategy_options,
    wanted_topology,
)

NAMES = sorted(STRATEGIES)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_whole_within_their_own_ranges_and_stay_what_they_are(name):
    filled = strategy_options({"name": name})
    assert set(filled) == {"name", *STRATEGIES[name]} - set(SAID_ONLY_WHERE_USED)
    assert strategy_options(filled) == filled
    assert {"inner_steps", "codec", "topology", "adapt", "weighted", "error_feedback"} <= set(filled)
    assert all(option.meaning for option in STRATEGIES[name].values())


def test_the_default_is_diloco_as_published():
    filled = strategy_options({})
    assert (filled["name"], filled["outer_lr"], filled["outer_momentum"]) == ("diloco", 0.7, 0.9)


@pytest.mark.parametrize(
    ("given", "field", "said"),
    [
        ({"name": "dilocco"}, "strategy.name", "did you mean diloco?"),
        ({"name": 3}, "strategy.name", "known: ddp, demo"),
        ({"name": "diloco", "outer_rl": 0.7}, "strategy.outer_rl", "did you mean outer_lr?"),
        ({"name": "ddp", "outer_lr": 0.7}, "strategy.outer_lr", "that ddp does not have"),
        ({"outer_lr": 0}, "strategy.outer_lr", "allowed: above 0 to 100"),
        ({"outer_lr": float("nan")}, "strategy.outer_lr", "is no number"),
        ({"outer_momentum": 1}, "strategy.outer_momentum", "allowed: 0 to below 1"),
        ({"outer_lr": True}, "strategy.outer_lr", "is no number"),
        ({"inner_steps": 30.0}, "strategy.inner_steps", "is no whole number"),
        ({"inner_steps": 0}, "strategy.inner_steps", "out of range"),
        ({"inner_steps_later": 7}, "strategy.inner_steps_later", "says nothing without later_from"),
        ({"later_from": 0.5}, "strategy.later_from", "says nothing without inner_steps_later"),
        ({"inner_steps_later": 0, "later_from": 0.5}, "strategy.inner_steps_later", "allowed: 1 to"),
        ({"inner_steps_later": 7, "later_from": 330}, "strategy.later_from", "allowed: above 0 to below 1"),
        ({"name": "ddp", "inner_steps_later": 7}, "strategy.inner_steps_later", "that ddp does not have"),
        ({"weighted": "yes"}, "strategy.weighted", "write true or false"),
        ({"merge": "best"}, "strategy.merge", "known: centered_clip, mean, trimmed_mean"),
        ({"merge": "trimmed_mean", "topology": "butterfly"}, "strategy.topology", "gives only means"),
        ({"codec": "int9"}, "strategy.codec", "int8"),
        ({"codec": 8}, "strategy.codec", "is no codec"),
        ({"codec": "top_k:64/4096+int8", "topology": "butterfly"}, "strategy.topology", "cannot cut"),
        ({"name": "noloco", "topology": "butterfly"}, "strategy.topology", "known: auto, pairs"),
        ({"name": "noloco", "beta": 0.5}, "strategy.beta", "not above alpha"),
        ({"name": "noloco", "slow_codec": "fp17"}, "strategy.slow_codec", "fp16"),
        ({"name": "streaming_diloco", "fragments": 40}, "strategy.fragments", "allowed: 1 to 30"),
        ({"name": "streaming_diloco", "overlap_steps": 7}, "strategy.overlap_steps", "allowed: 0 to 6"),
        ({"name": "demo", "codec": "top_k:8/64+fp16"}, "strategy.codec", "selects twice"),
        ({"name": "demo", "chunk": 4, "top_k": 17}, "strategy.top_k", "allowed: 1 to 16"),
        ({"name": "sparseloco", "codec": "int8", "average_over": "senders"}, "strategy.average_over", "write workers"),
    ],
)
def test_what_cannot_be_taken_is_named_with_what_to_do(given, field, said):
    with pytest.raises(OptionError) as caught:
        strategy_options(given)
    assert caught.value.field == field
    assert said in str(caught.value)
    assert caught.value.remedy


def test_error_feedback_comes_with_codecs_that_send_a_selection():
    assert not strategy_options({"codec": "int8"})["error_feedback"]
    assert strategy_options({"codec": "top_k:64/4096+int8"})["error_feedback"]
    assert not strategy_options({"codec": "top_k:64/4096+int8", "error_feedback": False})["error_feedback"]


def test_to_keep_what_is_not_sent_is_said_only_by_jobs_that_do():
    assert strategy_options({"keep_unsent": True})["keep_unsent"] is True
    assert strategy_options({**strategy_options({"keep_unsent": True}), "keep_unsent": False}) == strategy_options({})


def test_a_round_of_streaming_is_one_fragment_long():
    assert round_steps({"inner_steps": 100}) == 100
    assert round_steps({"name": "streaming_diloco", "inner_steps": 30, "fragments": 4}) == 7


@pytest.mark.parametrize(
    ("inner_steps", "fragments", "overlap"), [(30, 4, 3), (500, 4, 5), (12, 4, 1), (4, 4, 0), (20, 1, 5), (1, 1, 0)]
)
def test_an_exchange_of_a_fragment_may_by_default_take_half_a_round(inner_steps, fragments, overlap):
    given = {"name": "streaming_diloco", "inner_steps": inner_steps, "fragments": fragments}
    assert strategy_options(given)["overlap_steps"] == overlap
    assert strategy_options({**given, "overlap_steps": 0})["overlap_steps"] == 0


@pytest.mark.parametrize(
    ("codec", "topology", "wanted"),
    [("int8", "auto", "auto"), ("fp4", "auto", "auto"), ("int2", "auto", "gather"), ("sign1", "auto", "gather"),
     ("sign1", "butterfly", "butterfly"), ("int8", "star", "star")],
)  # fmt: skip
def test_a_coarse_codec_sends_whole_contributions_unless_told_otherwise(codec, topology, wanted):
    assert wanted_topology(strategy_options({"codec": codec, "topology": topology})) == wanted


def test_a_codec_text_is_parsed_once_for_all():
    assert parse_codec("top_k:64/4096+int2").dense is False
    with pytest.raises(OptionError, match=r"strategy\.codec"):
        parse_codec("int")


def test_the_bare_client_reads_options_without_numpy_and_torch():
    code = "import sys, trainers.options; sys.exit(' '.join({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stderr == b"\n"
