"""The plain classes below the actors, without Ray: meter, outbox, steward, configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.actors.host_config import ConfigRefused, read_config, version_mismatch
from market.actors.ray_node import sweep_folders
from market.actors.steward import REAP_AFTER_S, Steward
from tests.cluster.plaza import environment, until
from trainers.actors.lifeline import watch
from trainers.actors.meter import Meter
from trainers.actors.outbox import Outbox
from trainers.actors.wiring import DoorAway

Json = dict[str, Any]


# meter

ACTIONS = ("start", "training", "trained", "stop")


@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.floats(0, 100))))
def test_a_meter_never_falls_and_never_trains_longer_than_it_is_leased(steps: list[tuple[str, float]]) -> None:
    now = [0.0]
    meter = Meter(lambda: now[0])
    meter.start()
    last = meter.reading()
    for action, later in steps:
        getattr(meter, action)()
        now[0] += later
        reading = meter.reading()
        assert all(reading[name] >= last[name] for name in reading)
        assert reading["trained_ms"] <= reading["leased_ms"]
        last = reading


def test_a_meter_runs_from_the_first_load_and_stops_for_good() -> None:
    now = [5.0]
    meter = Meter(lambda: now[0])
    assert meter.reading()["leased_ms"] == 0
    meter.start()
    now[0] = 7.5
    meter.start()
    assert meter.reading()["leased_ms"] == 2500
    meter.stop()
    now[0] = 100
    assert meter.reading()["leased_ms"] == 2500
    meter.committed(3)
    meter.committed(3)
    assert meter.reading()["rounds"] == 1


# outbox


class FakeDoor:
    """Counts what it is told; away while `away` is set."""

    def __init__(self) -> None:
        self.away = threading.Event()
        self.told: list[tuple[str, Json]] = []

    def _tell(self, kind: str, body: Mapping[str, Any]) -> Json:
        if self.away.is_set():
            raise DoorAway("nobody there")
        self.told.append((kind, dict(body)))
        return {"version": 1}

    def report_round(self, report: Mapping[str, Any]) -> Json:
        return self._tell("round", report)

    def report_checkpoint(self, report: Mapping[str, Any]) -> Json:
        return self._tell("checkpoint", report)

    def report_readings(self, job: str, **body: Any) -> Json:
        return self._tell("readings", body)

    def report_halted(self, job: str, **body: Any) -> Json:
        return self._tell("halted", body)


def test_reports_wait_for_the_market_and_arrive_in_order() -> None:
    door = FakeDoor()
    door.away.set()
    outbox = Outbox("job-1", 7, door)  # type: ignore[arg-type]
    outbox.put("round", {"round": 1})
    for leased_ms in (100, 200, 300):
        outbox.put_readings(
            readings=[{"epoch": 1, "leased_ms": leased_ms}], logs=[{"at_ms": 1, "source": "w", "line": "x"}]
        )
    outbox.put("round", {"round": 2})
    outbox.put_readings(evaluated=[{"round": 2, "loss": 1.5}])
    outbox.put("halted", {"state": "done"})
    until(lambda: outbox.away, "the outbox has noticed that the market is away", 10)
    assert door.told == []

    door.away.clear()

    assert outbox.wait_empty(10)
    assert [kind for kind, _ in door.told] == ["round", "readings", "round", "readings", "halted"]
    readings = door.told[1][1]
    assert readings["readings"] == [{"epoch": 1, "leased_ms": 300}], "cumulative: the newest stands for all"
    assert len(readings["logs"]) == 3, "lines are all kept"
    assert door.told[3][1]["evaluated"] == [{"round": 2, "loss": 1.5}]


# steward


class FakeLauncher:
    """Runs are names in a set."""

    def __init__(self, living: set[str]) -> None:
        self.alive = living

    def living(self) -> set[str]:
        return set(self.alive)

    def start(self, job: str, attempt: int) -> None:
        self.alive.add(f"run-{job}-{attempt}")

    def end(self, name: str) -> None:
        self.alive.remove(name)


def test_the_steward_starts_what_is_wanted_and_reaps_the_rest_after_a_while() -> None:
    now = [0.0]
    launcher = FakeLauncher({"run-old-1"})
    steward = Steward(FakeDoor(), launcher, lambda: now[0])  # type: ignore[arg-type]

    steward.reconcile({"run-new-2": {"job": "new", "run": 2}})
    assert launcher.alive == {"run-old-1", "run-new-2"}

    now[0] = REAP_AFTER_S
    steward.reconcile({"run-new-2": {"job": "new", "run": 2}})
    assert launcher.alive == {"run-new-2"}, "the old run had its time for last words"

    launcher.alive.remove("run-new-2")
    steward.reconcile({"run-new-2": {"job": "new", "run": 2}})
    assert "run-new-2" in launcher.alive, "one that died for good is started again"


# a provider's configuration

MARKET = {"python": "3.11.9", "ray": "2.60.0", "torg": "0.1.3"}


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        ({"python": "3.11.2", "ray": "2.60.0", "torg": "0.1.0"}, None),
        ({"python": "3.12.9", "ray": "2.60.0", "torg": "0.1.3"}, "use Python 3.11.9"),
        ({"python": "3.11.9", "ray": "2.59.1", "torg": "0.1.3"}, "pip install 'ray==2.60.0'"),
        ({"python": "3.11.9", "ray": "2.60.0", "torg": "0.2.0"}, "pip install 'torg[node]==0.1.3'"),
    ],
)
def test_other_versions_are_told_what_to_install(ours: dict[str, str], says: str | None) -> None:
    found = version_mismatch(ours, MARKET)
    assert (found is None) == (says is None)
    assert says is None or says in str(found)


def test_a_configuration_that_others_may_read_is_refused_with_exit_3(tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    path.write_text("{}")
    path.chmod(0o644)
    with pytest.raises(ConfigRefused, match="chmod 600"):
        read_config(path)

    path.chmod(0o600)
    command = [sys.executable, "-m", "market.actors.provider_host", "--config", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["event"] == "refused"


# the lifeline


def test_the_end_of_a_process_is_noticed_but_not_its_rest() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = threading.Event()
    watch(sleeper.pid, ended.set)
    os.kill(sleeper.pid, 19)
    assert not ended.wait(0.3)
    sleeper.kill()
    assert ended.wait(10)
    sleeper.wait()


def test_the_folder_of_a_killed_node_is_swept_and_that_of_a_living_one_is_not() -> None:
    code = (
        "import os, tempfile, pathlib, time\n"
        "from market.actors import ray_node\n"
        "folder = pathlib.Path(tempfile.mkdtemp(prefix='torg-', dir='/tmp'))\n"
        "(folder / 'owner').write_text(ray_node._mark_of(os.getpid()))\n"
        "print(folder, flush=True)\n"
        "time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment())
    assert owner.stdout is not None
    with owner.stdout:
        folder = Path(owner.stdout.readline().strip())
        assert folder not in sweep_folders()
        assert folder.exists()
        owner.kill()
        owner.wait()
    assert folder in sweep_folders()
    assert not folder.exists()
