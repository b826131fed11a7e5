"""A provider's signed self-test: what is believed of it, what the offer shows, and that the record keeps it."""

from __future__ import annotations

import copy
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.selftest_files import KEY, RESULT, keep, kept
from market.selftests import fault, signed
from storage.canonical import canonical_bytes, parse_json
from tests.market.scene import Scene

MACHINE = {"kernel": "6.18", "bubblewrap": "0.8.0", "torg": "0.1.0", "landlock": 7}
REPORT = {
    "format": "torg-selftest-1", "isolation": "sandbox", "machine": MACHINE, "groups": ["memory", "pids"], "held": 73,
    "escaped": [], "not_applicable": ["kexec"], "at_ms": 1_700_000_000_000,
}  # fmt: skip
SIGNING_KEY = bytes(range(32))
GOOD = signed(REPORT, SIGNING_KEY)


def test_a_good_one_is_believed() -> None:
    assert fault(GOOD) is None
    assert fault(parse_json(canonical_bytes(GOOD))) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"held": 74}, {"escaped": ["mount"]}, {"isolation": "process"}, {"at_ms": 0}, {"machine": MACHINE | {"kernel": "7.0"}},
    ],
)  # fmt: skip
def test_a_changed_report_is_not_the_signed_one(changes: dict[str, Any]) -> None:
    assert fault(GOOD | {"report": REPORT | changes}) == "a report that is signed by the key beside it"


def test_another_key_has_not_signed_it() -> None:
    other = signed(REPORT, bytes(32))
    assert fault(GOOD | {"public_key": other["public_key"]}) == "a report that is signed by the key beside it"


@pytest.mark.parametrize(
    "report",
    [
        None, {}, REPORT | {"more": 1}, REPORT | {"format": "torg-selftest-2"}, REPORT | {"held": "73"}, REPORT | {"held": True},
        REPORT | {"escaped": "mount"}, REPORT | {"escaped": ["<b>"]}, REPORT | {"groups": ["x"] * 1001},
        REPORT | {"machine": {}}, REPORT | {"machine": MACHINE | {"kernel": "x" * 129}}, REPORT | {"isolation": "vault"},
    ],
)  # fmt: skip
def test_another_form_is_refused_even_if_it_is_signed(report: Any) -> None:
    assert fault(signed(report, SIGNING_KEY)) == "a report in the format torg-selftest-1"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
PLACES = st.sampled_from([("report",), ("public_key",), ("signature",), *(("report", name) for name in REPORT)])


@given(PLACES, JSON)
def test_whatever_is_sent_is_believed_or_refused(place: tuple[str, ...], value: Any) -> None:
    sent = copy.deepcopy(GOOD)
    inner = sent
    for name in place[:-1]:
        inner = inner[name]
    same = inner[place[-1]] == value
    inner[place[-1]] = value
    assert (fault(sent) is None) <= same


@pytest.mark.parametrize(
    ("asked", "changes", "shown"),
    [
        ("sandbox", {}, "sandbox"),
        ("process", {}, "process"),
        ("sandbox", {"escaped": ["mount"]}, "process"),
        ("sandbox", {"isolation": "process"}, "process"),
        ("sandbox", {"held": 24}, "process"),
    ],
)
def test_an_offer_shows_a_sandbox_only_if_one_held(asked: str, changes: dict[str, Any], shown: str) -> None:
    scene = Scene()
    scene.offer(isolation=asked, selftest=signed(REPORT | changes, SIGNING_KEY))
    assert scene.exchange.offers(scene.now_ms)[0]["isolation"] == shown


def test_without_one_an_offer_shows_process_and_is_journaled_as_ever() -> None:
    scene = Scene()
    scene.offer()
    assert not scene.of_type("offer_tested")
    offer = scene.exchange.offers(scene.now_ms)[0]
    assert (offer["isolation"], offer["selftest"]) == ("process", None)


def test_an_open_offer_takes_a_result_that_comes_later_and_a_replay_has_it() -> None:
    scene = Scene()
    scene.offer()
    scene.offer(selftest=GOOD)
    scene.offer(selftest=GOOD)
    assert scene.of_type("offer_tested") == [{"type": "offer_tested", "offer": "offer-1", "selftest": GOOD}]
    offer = scene.exchange.offers(scene.now_ms)[0]
    assert offer["isolation"] == "sandbox"
    assert (offer["selftest"]["held"], offer["selftest"]["public_key"]) == (73, GOOD["public_key"])
    assert scene.replayed().offers(scene.now_ms)[0]["selftest"] == offer["selftest"]


def test_a_forged_one_is_refused_with_what_is_wanted() -> None:
    scene = Scene()
    refusal = scene.refused(scene.make_offer("offer-1", "p1", 0.5, 1, selftest=GOOD | {"signature": "00" * 64}))
    assert refusal.field == "selftest"
    assert "signed by the key beside it" in refusal.message + str(refusal.remedy)


def test_a_providers_folder_keeps_it_for_the_machine_as_it_is(tmp_path: Path) -> None:
    assert kept(tmp_path, MACHINE) is None
    made = keep(tmp_path, REPORT)
    assert fault(made) is None
    assert kept(tmp_path, MACHINE) == made
    assert keep(tmp_path, REPORT) == made, "the key stays"
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o600
    for name, other in (("kernel", "7.0"), ("bubblewrap", "0.9"), ("torg", "0.2"), ("landlock", 8)):
        assert kept(tmp_path, MACHINE | {name: other}) is None
    (tmp_path / RESULT).write_text((tmp_path / RESULT).read_text().replace("73", "74"))
    assert kept(tmp_path, MACHINE) is None
