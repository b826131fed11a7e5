"""What a process may do to files, as Landlock keeps it: below the mount namespace with bubblewrap, in its place without.

A process puts the rules on itself before it has threads, and all that it starts has them, too. What no rule allows is
refused: reading (and programs) elsewhere than where it is named, writing but in the process's own folders, device nodes
anywhere. Kernels from 6.12 on also keep it from signalling processes and reaching abstract sockets outside; any kernel
with Landlock keeps it from tracing them, and from their secrets in /proc.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.seccomp import PR_SET_NO_NEW_PRIVS

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_SCOPES_SINCE = 6

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (1 << bit for bit in range(6, 13))
_REFER, _TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_RIGHTS_SINCE = ((1, (1 << 13) - 1), (2, _REFER), (3, _TRUNCATE), (5, IOCTL_DEV))
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | IOCTL_DEV

READ = EXECUTE | READ_FILE | READ_DIR
DEVICES = READ_FILE | READ_DIR | WRITE_FILE | _TRUNCATE | IOCTL_DEV
WRITE = (
    READ | WRITE_FILE | _TRUNCATE | _REFER | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK
    | _MAKE_FIFO | _MAKE_SYM
)  # fmt: skip

# Of a machine that it shares, what a process needs of /etc and /dev: names of accounts, certificates, no hashes.
_MACHINE = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/sys", "/proc")
_SETTINGS = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/alternatives",
             "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/ssl", "/etc/ca-certificates",
             "/etc/os-release", "/etc/mime.types", "/etc/fonts")  # fmt: skip
_NODES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm")


class LandlockUnavailable(Exception):
    """This machine has no Landlock; the message says why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Below `path` (or for the file itself) these rights; a path that is not there is passed over."""

    path: str
    rights: int


def rules_within(scratch: str) -> list[Rule]:
    """For a process in bubblewrap's file system: all that is there may be read, `scratch` and its RAM disks written."""
    return [Rule("/", READ), Rule("/dev", DEVICES), *(Rule(path, WRITE) for path in (scratch, "/tmp", "/dev/shm"))]  # noqa: S108  a tmpfs of its own


def rules_beside(scratch: str, readable: Sequence[str], nodes: Sequence[str]) -> list[Rule]:
    """For a process without bubblewrap: the system, this Python, `readable`; of /dev the harmless ones and `nodes`."""
    prefixes = dict.fromkeys(os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix))
    reads = [*_MACHINE, *_SETTINGS, *prefixes, sys.prefix, *readable]
    devices = [f"/dev/{name}" for name in (*_NODES, *nodes)]
    return [
        *(Rule(path, READ) for path in reads), *(Rule(path, DEVICES) for path in devices), Rule("/dev/shm", WRITE),  # noqa: S108
        Rule(scratch, WRITE),
    ]  # fmt: skip


def version() -> int:
    """The kernel's version of Landlock; 0 where there is none."""
    return max(0, int(_libc().syscall(ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))))


def handled(abi: int) -> int:
    """All rights that a kernel with this version knows."""
    return sum(rights for since, rights in _RIGHTS_SINCE if abi >= since)


def confine(rules: Sequence[Rule]) -> None:
    """Put them on this thread and all that it starts, for ever. Raises LandlockUnavailable, and nothing is changed then."""
    abi = version()
    if abi == 0:
        raise LandlockUnavailable("no Landlock in this kernel")
    libc, rights = _libc(), handled(abi)
    scopes = _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if abi >= _SCOPES_SINCE else 0
    header = struct.pack("=QQQ", rights, 0, scopes)[: 24 if abi >= _SCOPES_SINCE else 8]
    ruleset = libc.syscall(ctypes.c_long(_CREATE), header, ctypes.c_size_t(len(header)), ctypes.c_uint(0))
    if ruleset < 0:
        raise LandlockUnavailable(f"Landlock refused: {os.strerror(ctypes.get_errno())}")
    try:
        for rule in rules:
            _add(libc, ruleset, rule, rights)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.syscall(ctypes.c_long(_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0)) != 0:
            raise LandlockUnavailable(f"Landlock refused: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(ruleset)


def _add(libc: ctypes.CDLL, ruleset: int, rule: Rule, rights: int) -> None:
    try:
        descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        wanted = rule.rights & rights & (~0 if os.path.isdir(rule.path) else _OF_FILES)
        beneath = struct.pack("=Qi", wanted, descriptor)
        if libc.syscall(
            ctypes.c_long(_ADD), ctypes.c_int(ruleset), ctypes.c_uint(_PATH_BENEATH), beneath, ctypes.c_uint(0)
        ):
            raise LandlockUnavailable(f"Landlock refused {rule.path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
