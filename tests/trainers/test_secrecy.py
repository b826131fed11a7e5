"""Secrets on the machine that runs the job: handed over once, hidden in what is printed."""

import hashlib
import stat
import time

from hypothesis import given
from hypothesis import strategies as st

from trainers.actors.command_desk import CommandDesk
from trainers.secrecy import FILE, MASK, Masks, leave, take

VALUE = "hunter2-and-more"


def test_they_are_taken_once_and_leave_no_file(tmp_path):
    leave(tmp_path, {"A": VALUE})
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert take(tmp_path) == {"A": VALUE}
    assert list(tmp_path.iterdir()) == []
    assert take(tmp_path) == {}


@given(
    values=st.lists(st.text("abc\n-", min_size=4, max_size=12), min_size=1, max_size=4),
    around=st.text("xyz ", max_size=9),
)
def test_no_part_of_a_value_that_is_long_enough_stays(values, around):
    masks = Masks({str(number): value for number, value in enumerate(values)})
    for value in values:
        shown = masks(around + value + around)
        parts = [line.strip() for line in (value, *value.splitlines()) if len(line.strip()) >= 4]
        assert not any(part in shown for part in parts)
        assert MASK in shown or not parts


def test_what_is_no_secret_is_shown_as_it_is():
    assert Masks({})("a text") == "a text"
    assert Masks({"A": "abc"})("abc abc") == "abc abc", "three characters are everywhere"


def test_a_command_has_what_its_job_names_and_its_output_does_not(tmp_path):
    code = (
        "import os, hashlib; value = os.environ['NAMED']; print('it is', value, flush=True); "
        "print(hashlib.sha256(value.encode()).hexdigest(), 'UNNAMED' in os.environ); raise SystemExit(value)"
    )
    secrets = {"NAMED": VALUE, "UNNAMED": "something else"}
    desk = CommandDesk(scratch=tmp_path, isolation="process", memory_limit_bytes=1 << 30, secrets=secrets)
    command = {"argv": ["python", "-c", code], "env": {}, "artifacts": [], "timeout_ms": None, "secrets": ["NAMED"]}
    order = {"job": "job-1", "number": 1, "restarts": 0, "command": command, "data": {"kind": "none"}}
    try:
        assert desk.begin(order, None, None, None, threads=1, devices=[], shares={})["ok"]
        lines, told = [], None
        while told is None:
            lines += desk.lines()
            told = desk.wait(1, 0.2)["outcome"]
            time.sleep(0.01)
        lines += desk.lines()
    finally:
        desk.close()
    assert told["code"] == 1
    assert f"it is {MASK}" in lines
    assert f"{hashlib.sha256(VALUE.encode()).hexdigest()} False" in lines
    assert VALUE not in str(lines) + str(told)
    assert MASK in told["tail"]
