"""Where customer code runs: the bubblewrap command, the fixed environment, the limits that a process sets on itself.

Enforced under bubblewrap ("sandbox"): no network (own, empty network namespace; a command whose offer and job both allow
it has a way out to the public internet, see `outward/`); no sight of other processes, files,
keys, sockets or IPC of the machine (own namespaces; only Python, the system's libraries and this package, read-only);
writes only to the job's own folder and two small RAM disks; kernel settings in /proc read-only; no new privileges; death
with the parent. Enforced in both levels: files (`landlock.py`), system calls (`seccomp.py`), memory, tasks and cores of all
its processes (`cgroups.py`), and rlimits: no new process or program, no new socket, address space, file size, descriptors,
core dumps. A batch job's command (`command_child.py`) starts processes and programs, and under bubblewrap sockets that lead
nowhere. `selftest/` tries to break each of these.

Not enforced, so that nobody relies on it: without bubblewrap ("process") the code sees other processes and their command
lines, and where the kernel has no Landlock it reads every file that the provider's account reads; memory bandwidth and
caches are shared; address space is bounded, which on Linux is no exact bound on memory, so the parent watches RSS too; the
kernel is shared: a kernel bug is a way out. Timing side channels are open. With a card (`devices.py`; not run on a real one
yet) address space is not bounded at all, the driver's device nodes are one more way into the kernel, and a card's memory is
cleared between jobs only as far as its driver does so. As root the kernel does not count processes (RLIMIT_NPROC), so there
a fork bomb is bounded by cgroups, and where these cannot be written, by being seen and ended.
"""

import ctypes
import functools
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from trainers import devices

Isolation = Literal["sandbox", "process"]

SCRATCH = "/scratch"
SHARES = "/shares"
CODE = "/torg"
ENVIRONMENT = "/environment"
TMP_BYTES = 256 << 20
SHM_BYTES = 1 << 30
MAX_DESCRIPTORS = 256
COMMAND_DESCRIPTORS = 4096
COMMAND_PROCESSES = 4096
COMMAND_FILE_BYTES = 64 << 30
COMMAND_ROOM_BYTES = 1 << 30
COMMAND_DISK_BYTES = 128 << 30
CHILD_TASKS = 1024
GROUP_ROOM_BYTES = 2 << 30
"""Beyond the memory limit, for a group of processes: Python, torch, the RAM disks. Whoever watches ends it before."""
NO_CORE_DUMP = 1
"""Of RLIMIT_CORE: with 0 the kernel still runs a program that takes core dumps, with 1 it does not."""
PR_SET_PDEATHSIG = 1

# Each step frees and asks for the same large blocks; given back to the kernel they would cost page faults, a tenth of a
# small model's step. In pages of 4 KiB their addresses do not fit into the processor's tables, so large pages are asked for
# where the kernel gives them to who asks; a C library that knows no such tunable takes no notice.
TRAINING_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}  # fmt: skip

_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/alternatives",
                 "/sys/devices/system/cpu")  # fmt: skip
# Whom to believe: what programs need to speak to servers, and nothing private.
_CERTIFICATES = ("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs", "/etc/pki/tls/openssl.cnf",
                 "/etc/pki/ca-trust/extracted", "/etc/ca-certificates")  # fmt: skip
CERTIFICATES = tuple(word for name in _CERTIFICATES for word in ("--ro-bind-try", name, name))
# Root's files of /proc are those of whoever root is outside, so with a provider that is root they are the child's own.
_KERNEL_SETTINGS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
_KERNEL_MEMORY = ("/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/kallsyms", "/proc/timer_list", "/proc/sched_debug",
                  "/proc/latency_stats", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup", "/proc/mtrr")  # fmt: skip


def bubblewrap_command(
    scratch: Path, shares: Mapping[str, Path], environment: Mapping[str, str], info_fd: int | None,
    further: Sequence[str] = (), dies_with_parent: bool = True,
) -> list[str]:  # fmt: skip
    """`bwrap …` up to and including `--`. bubblewrap hands on the descriptors that it inherits. `further`: options of
    `devices.bubblewrap_arguments`. What does not die with its parent must see by itself that this is gone.
    """
    command = [str(shutil.which("bwrap")), "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534"]
    command += ["--die-with-parent"] if dies_with_parent else []
    command += ["--cap-drop", "ALL", "--as-pid-1", "--hostname", "torg", "--clearenv"]
    command += ["--size", str(TMP_BYTES), "--tmpfs", "/tmp", "--dev", "/dev", "--proc", "/proc"]  # noqa: S108  a new tmpfs
    command += ["--size", str(SHM_BYTES), "--tmpfs", "/dev/shm"]  # noqa: S108  a new tmpfs
    command += [word for name in _KERNEL_SETTINGS for word in ("--ro-bind-try", name, name)]
    command += [word for name in _KERNEL_MEMORY if os.path.exists(name) for word in ("--ro-bind", os.devnull, name)]
    for folder in _SYSTEM:
        if os.path.islink(folder):
            command += ["--symlink", os.readlink(folder), folder]
        elif os.path.isdir(folder):
            command += ["--ro-bind", folder, folder]
    for name in _SYSTEM_FILES:
        command += ["--ro-bind-try", name, name]
    command += ["--ro-bind", str(package_folder() / "hosts.txt"), "/etc/hosts"]  # its own names, and no other machine's
    for prefix in dict.fromkeys(os.path.realpath(path) for path in (sys.base_prefix, sys.exec_prefix)):
        command += ["--ro-bind", prefix, prefix]
    if os.path.realpath(sys.prefix) != sys.prefix:
        command += ["--ro-bind", sys.prefix, sys.prefix]
    for code in code_folders():
        command += ["--ro-bind", str(code), f"{CODE}/{code.name}"]
    for name, share in shares.items():
        command += ["--ro-bind", str(share), f"{SHARES}/{name}"]
    command += [*further, "--bind", str(scratch), SCRATCH, "--chdir", SCRATCH]
    command += ["--remount-ro", "/dev", "--remount-ro", "/"]  # RAM disks without a bound
    for name, value in environment.items():
        command += ["--setenv", name, value]
    if info_fd is not None:
        command += ["--info-fd", str(info_fd)]
    return [*command, "--"]


def child_environment(
    threads: int, home: str, code: str, cards: Sequence[devices.Device] = (), processes: int = 1
) -> dict[str, str]:
    """The whole environment of a trainer child: nothing is inherited. `processes`: its ranks, which share the threads."""
    threads = max(1, threads // processes)
    loopback = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if processes > 1 else {}
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PYTHONPATH": code,
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        **TRAINING_MEMORY,
        **loopback,
        **devices.environment(cards),
    }


def command_environment(
    threads: int, home: str, temporary: str, code: str, programs: Sequence[str], cards: Sequence[devices.Device] = ()
) -> dict[str, str]:
    """What a batch job's command begins with, before what its customer adds. `programs`: folders searched before ours.

    `code`: where a script finds `torg`, of the provider's version; without bubblewrap in an installation only.
    """
    count = str(max(1, threads))
    return {
        "PATH": ":".join([*programs, str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": home,
        "TMPDIR": temporary,
        "LANG": "C.UTF-8",
        "PYTHONPATH": code,
        "PYTHONUNBUFFERED": "1",  # lines reach the log when they are printed
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        **devices.environment(cards),
    }


def python_command() -> list[str]:
    """This Python: no bytecode written, no user site, and nothing importable from the working folder."""
    return [sys.executable, "-B", "-s", "-P", "-u"]


def package_folder() -> Path:
    """The folder of this package."""
    return Path(__file__).resolve().parent


def code_folders() -> list[Path]:
    """All of ours that a child sees: this package, and `torg`, which customers' scripts import."""
    return [package_folder(), package_folder().parent / "torg"]


@functools.cache
def isolation_level() -> Isolation:
    """What this machine can do: "sandbox" when bubblewrap really ran once here, else "process"."""
    if shutil.which("bwrap") is None:
        return "process"
    environment = child_environment(1, SCRATCH, CODE)
    probe = [*bubblewrap_command(package_folder(), {}, environment, None), *python_command(), "-S", "-c", "pass"]
    try:
        done = subprocess.run(probe, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "process"
    return "sandbox" if done.returncode == 0 else "process"


def die_with_parent(parent_pid: int | None) -> None:
    """Ask the kernel for SIGKILL when the parent goes; leave at once if it is gone already (None: do not compare)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid is not None and os.getppid() != parent_pid:
        os._exit(1)


def limit_self(memory_limit_bytes: int, isolation: Isolation, cuda: bool, tasks: int) -> None:
    """Limits for the rest of this process's life; memory counts from what it has mapped already. tasks: threads at most.

    Address space is not limited with `cuda`, which reserves as much of it as all memory of machine and cards together.
    """
    with open("/proc/self/statm") as statm:
        mapped = int(statm.read().split()[0]) * resource.getpagesize()
    limits: Sequence[tuple[int, int]] = (
        *([] if cuda else [(resource.RLIMIT_AS, mapped + memory_limit_bytes)]),
        (resource.RLIMIT_NOFILE, 4 * MAX_DESCRIPTORS if cuda else MAX_DESCRIPTORS),
        (resource.RLIMIT_CORE, NO_CORE_DUMP),
        (resource.RLIMIT_FSIZE, max(1 << 30, memory_limit_bytes)),
    )
    if isolation == "sandbox":  # counted per user namespace there; elsewhere it would count the account's processes
        limits = (*limits, (resource.RLIMIT_NPROC, tasks))
    _limit(limits)


def limit_command(memory_limit_bytes: int, isolation: Isolation, cuda: bool, tasks: int) -> None:
    """The same before a batch job's command begins, for each of its processes; their sum is watched by `command_child`."""
    limits: Sequence[tuple[int, int]] = (
        *([] if cuda else [(resource.RLIMIT_DATA, memory_limit_bytes + COMMAND_ROOM_BYTES)]),
        (resource.RLIMIT_NOFILE, COMMAND_DESCRIPTORS),
        (resource.RLIMIT_CORE, NO_CORE_DUMP),
        (resource.RLIMIT_FSIZE, max(COMMAND_FILE_BYTES, memory_limit_bytes)),
    )
    if isolation == "sandbox":
        limits = (*limits, (resource.RLIMIT_NPROC, tasks))
    _limit(limits)


def _limit(limits: Sequence[tuple[int, int]]) -> None:
    for which, wanted in limits:
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))
