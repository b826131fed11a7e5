"""The market's daemon: starts exchange, books and Ray's head, starts again what dies, ends all in order.

`python -m market.supervisor --home HOME --host H [--port P] [--ray ADDRESS [--ray-token FILE] | --no-ray]`

1. Take HOME/lock; a second supervisor finds it taken and leaves.
2. Listen: the socket belongs to this process and is lent to the exchange, so that the port stays ours and callers wait
   through a restart of the exchange instead of being refused.
3. Start the exchange; when it answers, reopen the market, start books and head, say «ready».
4. Until SIGTERM: a dead child is started again.
5. Stop the market (jobs pause at a durable round, 30 s at most), end head, books, exchange, and whatever they left.

It imports no ray. `start` and `stop` are what the command line calls.
"""

import argparse
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.children import adopt_orphans, code_folder, cut_log, end_processes, open_log
from market.client import Market, MarketUnreachable, Refused
from market.daemon import (
    GRACE_S,
    PAUSE_JOBS_S,
    START_S,
    StartFailed,
    Supervisor,
    Wanted,
    choose_socket,
    say,
    shown_host,
    tail_of,
)
from market.homes import PROCESSES, Home, pid_is_alive, read_json
from market.tls import TlsFiles, TlsRefused, check_files, now_utc
from storage.formats import FormatDamaged, FormatNewer, check_home
from trainers.ready import wait_ready

log = logging.getLogger("torg.supervisor")

__all__ = ["MarketInfo", "StartFailed", "is_running", "main", "start", "stop"]


@dataclass(frozen=True, slots=True)
class MarketInfo:
    """A market that answers. `fresh` is False when it was running before."""

    url: str
    host: str
    port: int
    supervisor_pid: int
    home: str
    fresh: bool


def start(
    home_folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    ray: str | None = None,
    ray_token: Path | None = None,
    no_ray: bool = False,
    tls: TlsFiles | None = None,
    timeout_s: float = START_S,
) -> MarketInfo:
    """Start the daemon detached and return when the API answers; a market that runs is returned as it is.

    `tls`: speak https. Raises StartFailed with code port_in_use, address_unusable, tls_unusable, tls_failed,
    home_newer, exchange_failed or start_failed.
    """
    name = None
    if tls is not None:
        tls = TlsFiles(tls.certificate.absolute(), tls.key.absolute())
        try:
            name = check_files(tls, shown_host(host), now_utc())
        except TlsRefused as wrong:
            raise StartFailed("tls_unusable", wrong.message, field=wrong.field, remedy=wrong.remedy) from wrong
    home = Home(home_folder.absolute())
    check_not_moved(home)
    check_format(home)
    home.make_folders()
    until_s = time.monotonic() + timeout_s
    while time.monotonic() < until_s:
        if is_running(home):
            found = _answering(home)
            if found is not None:
                return found
            time.sleep(0.1)
            continue
        wanted = Wanted(host, port, ray, ray_token.absolute() if ray_token else None, no_ray, tls, name)
        said = _spawn(home, wanted, max(1.0, until_s - time.monotonic()))
        if said.get("code") == "already_running":
            continue
        if "url" not in said:
            tail = tail_of(home.log_file("supervisor"), home.log_file("exchange"))
            message = said.get("message") or f"the market did not come up:\n{tail}"
            raise StartFailed(
                said.get("code", "start_failed"), message, field=said.get("field"), remedy=said.get("remedy")
            )
        said.pop("ca", None)
        return MarketInfo(**said, home=str(home.root), fresh=True)
    tail = tail_of(home.log_file("exchange"))
    raise StartFailed("start_failed", f"the market did not answer within {timeout_s:.0f} s:\n{tail}")


def stop(home_folder: Path, *, timeout_s: float = PAUSE_JOBS_S + sum(GRACE_S.values()) + 10) -> bool:
    """End the market of this home and everything it started; False when nothing ran. Raises TimeoutError."""
    home = Home(home_folder.absolute())
    if not home.root.exists():
        return False
    pid = home.read_pid("supervisor")
    ran = is_running(home)
    until_s = time.monotonic() + timeout_s
    while ran and pid is not None and is_running(home):
        if time.monotonic() > until_s:
            raise TimeoutError(f"the supervisor, pid {pid}, did not end within {timeout_s:.0f} s")
        if pid_is_alive(pid):
            _signal(pid, signal.SIGTERM)
        _wait_for_end(pid, 1.0)
    return bool(end_left(home)) or ran


def is_running(home: Home) -> bool:
    """Whether a supervisor holds the lock of this home."""
    try:
        handle = os.open(home.lock_file, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def check_not_moved(home: Home) -> None:
    """Raises StartFailed with code market_moved where `torg backup --move` has ended the market of this home for good."""
    if (moved := read_json(home.moved_file)) or home.moved_file.exists():
        message = f"the market of {home.root} was moved into the backup {moved.get('file', 'of before')}"
        remedy = f"start it where that was restored; if it never was, remove {home.moved_file}"
        raise StartFailed("market_moved", message, remedy=remedy)


def check_format(home: Home) -> None:
    """Raises StartFailed with code home_newer where a newer torg wrote this home."""
    try:
        check_home(home.root)
    except FormatNewer as newer:
        raise StartFailed("home_newer", newer.message, field="--home", remedy=newer.remedy) from newer
    except FormatDamaged as damaged:
        raise StartFailed("home_damaged", str(damaged), field="--home", remedy="restore the file from a backup") from damaged


def end_left(home: Home) -> list[int]:
    """End processes that a killed supervisor left; a pid counts only if its command line names this home."""
    left = [pid for name in PROCESSES if (pid := home.read_pid(name)) is not None]
    ended = end_processes(left, GRACE_S["head"], is_ours=lambda pid: _names_home(pid, home)) if left else []
    for name in (*PROCESSES, "supervisor"):
        home.forget_pid(name)
    return ended


def main(arguments: list[str] | None = None) -> int:
    """The daemon. Exit code 0 when told to stop, 1 when the market did not come up."""
    parser = argparse.ArgumentParser(prog="python -m market.supervisor")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    ray = parser.add_mutually_exclusive_group()
    ray.add_argument("--ray", help="address of a Ray cluster that exists")
    ray.add_argument("--no-ray", action="store_true", help="no data plane")
    parser.add_argument("--ray-token", type=Path, help="file with the token of that cluster")
    parser.add_argument("--tls-cert", type=Path, help="certificate, PEM: speak https")
    parser.add_argument("--tls-key", type=Path, help="its key")
    parser.add_argument("--name", help="the host in the market's URL")
    parser.add_argument("--ready-fd", type=int, help="descriptor that is told how the start went")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    home = Home(given.home.absolute())
    home.make_folders()
    lock = os.open(home.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(given.ready_fd, {"code": "already_running", "message": f"a market runs in {home.root} already"})
        return 1
    try:
        check_not_moved(home)
        check_format(home)
    except StartFailed as failed:
        log.error("%s", failed)
        say(given.ready_fd, {"code": failed.code, "message": failed.message, "remedy": failed.remedy})
        return 1
    adopt_orphans()
    end_left(home)
    tls = TlsFiles(given.tls_cert, given.tls_key) if given.tls_cert and given.tls_key else None
    wanted = Wanted(given.host, given.port, given.ray, given.ray_token, given.no_ray, tls, given.name)
    try:
        listening = choose_socket(home, wanted)
    except StartFailed as failed:
        log.error("%s", failed)
        told = {"code": failed.code, "message": failed.message, "field": failed.field, "remedy": failed.remedy}
        say(given.ready_fd, told)
        return 1
    return Supervisor(home, wanted, listening).run(given.ready_fd)


def _spawn(home: Home, wanted: Wanted, timeout_s: float) -> dict[str, Any]:
    """Start the daemon; what it says about its start, empty if it died without a word."""
    ears, mouth = os.pipe()
    command = [sys.executable, "-m", "market.supervisor", "--home", str(home.root), "--host", wanted.host]
    command += ["--port", str(wanted.port)] if wanted.port is not None else []
    command += ["--ray", wanted.ray] if wanted.ray else []
    command += ["--ray-token", str(wanted.ray_token)] if wanted.ray_token else []
    command += ["--no-ray"] if wanted.no_ray else []
    command += ["--tls-cert", str(wanted.tls.certificate), "--tls-key", str(wanted.tls.key)] if wanted.tls else []
    command += ["--name", wanted.name] if wanted.name else []
    command += ["--ready-fd", str(mouth)]
    cut_log(home.log_file("supervisor"))
    try:
        with open_log(home.log_file("supervisor")) as output:
            daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=code_folder(),
                pass_fds=(mouth,),
                start_new_session=True,
            )
        os.close(mouth)
        readable, _ = wait_ready([ears], timeout_s)
        line = os.read(ears, 65_536) if readable else b""
    finally:
        os.close(ears)
    found: dict[str, Any] = json.loads(line) if line else {}
    if "url" in found:
        daemon.returncode = 0  # it outlives us on purpose: nobody waits for it
        return found
    if readable:
        daemon.wait()  # it said why, or died without a word
    else:
        daemon.terminate()
        daemon.wait()
    return found


def _answering(home: Home) -> MarketInfo | None:
    """The running market, if it answers by now."""
    facts = home.read_market()
    if facts.get("supervisor_pid") != home.read_pid("supervisor"):
        return None
    try:
        with Market(str(facts["url"]), timeout_s=2.0, patience_s=0, ca=home.ca) as market:
            market.healthz()
    except (MarketUnreachable, Refused):
        return None
    known = {name: facts[name] for name in ("url", "host", "port", "supervisor_pid")}
    return MarketInfo(**known, home=str(home.root), fresh=False)


def _names_home(pid: int, home: Home) -> bool:
    import psutil

    try:
        return str(home.root) in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        log.debug("pid %s is gone already", pid)


def _wait_for_end(pid: int, timeout_s: float) -> None:
    import psutil

    try:
        psutil.Process(pid).wait(timeout_s)
    except (psutil.TimeoutExpired, psutil.NoSuchProcess):
        return


if __name__ == "__main__":
    sys.exit(main())
