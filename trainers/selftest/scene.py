"""What there is to steal, and how an attempt says what came of it. Imports nothing heavy: it is known inside, too."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass

BOOTY = "torg-selftest-booty"
"""Whatever an attempt must not see holds this text."""


class Stopped(Exception):
    """The attempt did not get what it wanted; the message says what it saw instead."""


class Absent(Exception):
    """This machine does not have what the attempt goes for; the message says what."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Paths and pids as the provider's account sees them; ports are of its loopback device.

    Args:
        secret: a file (0600) that stands for the market's keys. neighbour: a file in another lease's folder.
        home: the home of the provider's account. packages: the folder that Python's packages lie in.
        own: the folder that the attempt may write, as it sees it. victim: a process of the provider.
        parent: the provider's process that began all this. address: of a unix socket in the file system, `abstract` one
            without; both greet with BOOTY, as `tcp` does and `udp` answers. `api` answers who knows `key`.
        segment: the key of a shared memory segment. hold_s: how long it must keep what it took beyond a limit to have it.
    """

    secret: str
    neighbour: str
    home: str
    packages: str
    own: str
    victim: int
    parent: int
    address: str
    abstract: str
    tcp: int
    udp: int
    api: int
    key: str
    segment: int
    hold_s: float


REFUSED = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EROFS, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT}
)  # fmt: skip
"""What a door that is shut answers. Any other error comes from behind it: somebody looked at what was asked."""

_NUMBERS = {  # (x86_64, aarch64)
    "mount": (165, 40), "pivot_root": (155, 41), "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51),
    "clone3": (435, 435), "bpf": (321, 280), "add_key": (248, 217), "keyctl": (250, 219), "io_uring_setup": (425, 425),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "userfaultfd": (323, 282), "perf_event_open": (298, 241), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "init_module": (175, 105), "kexec_load": (246, 104), "reboot": (169, 142),
    "swapon": (167, 224), "clock_settime": (227, 112), "sethostname": (170, 161), "syslog": (103, 116),
    "fsopen": (430, 430), "fanotify_init": (300, 262), "capset": (126, 91), "shmget": (29, 194), "shmat": (30, 196),
    "acct": (163, 89), "kcmp": (312, 272),
}  # fmt: skip


def call(name: str, *arguments: object) -> int:
    """A system call by its number; bytes are passed by address, numbers as long. Raises OSError as the kernel answers."""
    numbers = _NUMBERS[name]
    machine = os.uname().machine
    if machine not in ("x86_64", "aarch64"):
        raise Absent(f"the numbers of system calls on {machine} are not known here")
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    libc = ctypes.CDLL(None, use_errno=True)
    done = int(libc.syscall(ctypes.c_long(numbers[machine == "aarch64"]), *words))
    if done < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return done


def reached(name: str, *arguments: object) -> str:
    """Whether a call is let through to its work, even if that finds fault with what it was given."""
    try:
        call(name, *arguments)
    except OSError as error:
        if error.errno in REFUSED:
            raise
        return f"{name} looked at what it was given: {errno.errorcode.get(error.errno or 0, error.errno)}"
    return f"{name} did it"


def struct_of(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    """A C structure in a buffer."""
    packed = struct.pack(layout, *values)
    return ctypes.create_string_buffer(packed, len(packed))
