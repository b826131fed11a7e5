"""Machines of their own on one computer: network namespaces joined by a switch, each with a cable of a chosen speed.

Needs root and iproute2 (`ip`, `tc`). Everything made here bears the maker's process id in its name: it is removed at the
end, and what a killed maker left behind is removed by the next one.

    with Cables(bits_per_second=20_000_000) as cables:
        machine = cables.add()
        subprocess.Popen(machine.command([sys.executable, "-m", "…"]))
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

PREFIX = "torgbench"
INTERFACE = "eth0"
NAMESPACES = Path("/run/netns")
BURST_BYTES = 16 << 10
QUEUE_MS = 100
CLONE_NEWNET = 0x40000000
_UNITS = {"kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}


class NoCables(Exception):
    """This machine or account cannot make network namespaces; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One network namespace; `address` is an IPv4 address that all the others reach."""

    namespace: str
    address: str

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The same command, run there. The process id stays that of the command."""
        return ["nsenter", f"--net={NAMESPACES / self.namespace}", *arguments]


def bits_per_second(link: str) -> int | None:
    """ "20mbit" is 20,000,000; "none" is a cable without a limit. Raises ValueError."""
    if link == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(kbit|mbit|gbit)", link)
    if match is None:
        raise ValueError(f"link {link!r} is no speed; give none, or a number with kbit, mbit or gbit, such as 20mbit")
    return int(float(match[1]) * _UNITS[match[2]])


def why_no_cables() -> str | None:
    """Why this process cannot make cables, or None when it can."""
    missing = [tool for tool in ("ip", "tc", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"network namespaces need {', '.join(missing)} (packages iproute2 and util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root: run this with sudo"
    return None


class Cables:
    """A switch and the machines on it. `bits_per_second` limits both directions of each cable added; None: no limit."""

    def __init__(self, bits_per_second: int | None) -> None:
        reason = why_no_cables()
        if reason is not None:
            raise NoCables(reason)
        remove_left_behind()
        self.bits_per_second = bits_per_second
        self._made = 0
        self._subnet = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
        self._switch = self._namespace("switch")
        _run("ip", "-n", self._switch, "link", "add", "switch0", "type", "bridge")
        _run("ip", "-n", self._switch, "link", "set", "switch0", "up")

    def __enter__(self) -> Cables:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def add(self, *, limited: bool = True) -> Machine:
        """One more machine on the switch; `limited=False` for one whose cable is never the bottleneck."""
        self._made += 1
        number = self._made
        namespace, port = self._namespace(str(number)), f"port{number}"
        machine = Machine(namespace, f"{self._subnet}.{number}")
        _run("ip", "link", "add", INTERFACE, "netns", namespace, "type", "veth", "peer", port, "netns", self._switch)
        _run("ip", "-n", self._switch, "link", "set", port, "master", "switch0", "up")
        _run("ip", "-n", namespace, "address", "add", f"{machine.address}/24", "dev", INTERFACE)
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", namespace, "link", "set", INTERFACE, "up")
        if limited and self.bits_per_second is not None:
            limit = ["root", "tbf", "rate", f"{self.bits_per_second}bit", "burst", str(BURST_BYTES)]
            limit += ["latency", f"{QUEUE_MS}ms"]
            _run("tc", "-n", namespace, "qdisc", "add", "dev", INTERFACE, *limit)
            _run("tc", "-n", self._switch, "qdisc", "add", "dev", port, *limit)
        return machine

    def cut(self, machine: Machine) -> None:
        """Pull its plug; everything that is on its way is lost."""
        _run("ip", "-n", machine.namespace, "link", "set", INTERFACE, "down")

    def mend(self, machine: Machine) -> None:
        """Put its plug back."""
        _run("ip", "-n", machine.namespace, "link", "set", INTERFACE, "up")

    def wire(self, machine: Machine) -> tuple[int, int]:
        """(bytes sent, bytes received) by the machine since it was made, whole frames with all headers."""
        shown = _run("ip", "netns", "exec", machine.namespace, "cat", "/proc/net/dev")
        return interface_bytes(shown, INTERFACE)

    def remove(self) -> None:
        """End what still runs inside and take everything down; may be called again."""
        for namespace in _namespaces():
            if _owner(namespace) == os.getpid():
                _remove(namespace)

    def _namespace(self, name: str) -> str:
        namespace = f"{PREFIX}-{os.getpid()}-{name}"
        _run("ip", "netns", "add", namespace)
        return namespace


def interface_bytes(shown: str, interface: str) -> tuple[int, int]:
    """(sent, received) of an interface from the text of /proc/net/dev."""
    for line in shown.splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == interface:
            fields = counts.split()
            return int(fields[8]), int(fields[0])
    raise LookupError(f"no interface {interface}")


@contextmanager
def inside(machine: Machine | None) -> Iterator[None]:
    """Sockets that this thread makes meanwhile belong to that machine."""
    if machine is None:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as ours, (NAMESPACES / machine.namespace).open() as theirs:
        if libc.setns(theirs.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {machine.namespace}")
        try:
            yield
        finally:
            assert libc.setns(ours.fileno(), CLONE_NEWNET) == 0, "the way back is always open"


def remove_left_behind() -> None:
    """Take down what makers that are gone have left."""
    for namespace in _namespaces():
        if not _lives(_owner(namespace)):
            _remove(namespace)


def _namespaces() -> list[str]:
    return sorted(path.name for path in NAMESPACES.glob(f"{PREFIX}-*-*"))


def _owner(namespace: str) -> int:
    return int(namespace.split("-")[1])


def _lives(pid: int) -> bool:
    """A killed process that nobody has waited for yet lives no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _remove(namespace: str) -> None:
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoCables(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
