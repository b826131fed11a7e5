"""A system call filter that a child puts on itself before customer code runs.

It refuses what training never needs and attacks do: new processes and programs, new sockets, other processes, mounts,
kernel interfaces with a history. It is a deny list, so it narrows the kernel's surface; it is no proof. Threads are
allowed (torch uses them), and so are files: what may be opened is the business of the mount namespace.

A command of a batch job starts programs, so its filter allows processes, and what they need of each other; sockets
only where it has a network of its own, in which there is nobody else, and only of families that such a network bounds. New namespaces, tracing, mounts and the rest stay refused.
"""

import ctypes
import errno
import os
import platform
import struct

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1
CLONE_THREAD = 0x00010000
RET_ALLOW, RET_KILL_PROCESS, RET_ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LD_ABS, JEQ, JGE, JSET, AND, RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
X32_BIT = 0x40000000

# names -> numbers from the kernel's syscall tables; None where an architecture has no such call
_TABLE: dict[str, tuple[int | None, int | None]] = {  # (x86_64, aarch64)
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "socket": (41, 198), "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242), "bind": (49, 200),
    "listen": (50, 201),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "process_madvise": (440, 440),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fspick": (433, 433), "mount_setattr": (442, 442), "unshare": (272, 97), "setns": (308, 268),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219),
    "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_setup": (206, 0), "memfd_create": (319, 279), "shmget": (29, 194),
    "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180), "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224),
    "swapoff": (168, 225), "syslog": (103, 116), "acct": (163, 89), "quotactl": (179, 60), "personality": (135, 92),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None),
    "modify_ldt": (154, None), "fanotify_init": (300, 262), "landlock_create_ruleset": (444, 444),
    "quotactl_fd": (443, 443), "memfd_secret": (447, 447), "process_mrelease": (448, 448), "statmount": (457, 457),
    "listmount": (458, 458), "lsm_set_self_attr": (460, 460), "move_pages": (279, 239), "migrate_pages": (256, 238),
    "vhangup": (153, 58), "nfsservctl": (180, 42), "lookup_dcookie": (212, 18), "uselib": (134, None),
    "_sysctl": (156, None), "create_module": (174, None), "query_module": (178, None), "get_kernel_syms": (177, None),
}  # fmt: skip
# what a command of its own may do beside training: processes, and sockets where these lead nowhere
_PROCESSES = frozenset(
    {"fork", "vfork", "execve", "execveat", "pidfd_open", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
     "tkill", "memfd_create", "shmget", "semget", "msgget", "mq_open"}
)  # fmt: skip
_SOCKETS = frozenset({"socket", "connect", "accept", "accept4", "bind", "listen"})
NEW_NAMESPACES = 0x7E020000
_SOCKET, _IOCTL = (41, 198), (16, 29)
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: what they put in is typed to whoever reads the terminal next
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK, _SOCK_RAW, _SOCK_DCCP, _TYPE_BITS = 1, 2, 10, 16, 3, 6, 0xF
NEWEST_KNOWN = 462
"""Of the calls that were looked at; later ones are not there, as on an older kernel. The numbers are all architectures'."""
_CLONE, _CLONE3, _KILL, _TGKILL, _PRLIMIT = (56, 220), (435, 435), (62, 129), (234, 131), (302, 261)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E, 317), "aarch64": (1, 0xC00000B7, 277)}


class SeccompUnavailable(Exception):
    """This machine cannot filter system calls; the message says why."""


def program(machine: str, own_pid: int, *, processes: bool = False, sockets: bool = False) -> bytes:
    """The classic BPF program for `machine` (x86_64 or aarch64); `own_pid` may still be signalled and limited.

    `processes`: new ones are allowed, and signals to any that can be seen; `sockets`: new ones of those, too.
    """
    allowed = (_PROCESSES if processes else frozenset()) | (_SOCKETS if sockets else frozenset())
    column, audit_arch, _ = _ARCHITECTURES[machine]
    deny = _statement(RET, RET_ERRNO | errno.EPERM)
    allow = _statement(RET, RET_ALLOW)
    load_number, load_argument = _statement(LD_ABS, 0), _statement(LD_ABS, 16)
    not_there = _statement(RET, RET_ERRNO | errno.ENOSYS)
    code = [_statement(LD_ABS, 4), _jump(JEQ, audit_arch, 1, 0), _statement(RET, RET_KILL_PROCESS), load_number]
    if machine == "x86_64":  # the x32 table has the same calls under other numbers
        code += [_jump(JGE, X32_BIT, 0, 1), _statement(RET, RET_KILL_PROCESS)]
    code += [_jump(JGE, NEWEST_KNOWN + 1, 0, 1), not_there]
    for name, numbers in _TABLE.items():
        number = numbers[column]
        if number is not None and name not in allowed:
            code += [_jump(JEQ, number, 0, 1), deny]
    # glibc falls back to clone(), whose flags a filter can read, when clone3() is not there
    code += [_jump(JEQ, _CLONE3[column], 0, 1), not_there]
    code += _terminals(_IOCTL[column])
    code += _families(_SOCKET[column]) if sockets else []
    if processes:
        code += [_jump(JEQ, _CLONE[column], 0, 4), load_argument, _jump(JSET, NEW_NAMESPACES, 0, 1), deny, allow]
    else:
        code += [_jump(JEQ, _CLONE[column], 0, 4), load_argument, _jump(JSET, CLONE_THREAD, 0, 1), allow, deny]
    for call in () if processes else (_KILL, _TGKILL):
        code += [_jump(JEQ, call[column], 0, 4), load_argument, _jump(JEQ, own_pid, 0, 1), allow, deny]
    code += [_jump(JEQ, _PRLIMIT[column], 0, 5), load_argument, _jump(JEQ, own_pid, 1, 0), _jump(JEQ, 0, 0, 1)]
    return b"".join([*code, allow, deny, allow])


def _terminals(call: int) -> list[bytes]:
    """No typing to a terminal; the call's number stays what was loaded where it is another one."""
    first, second = _TERMINAL_INPUT
    deny, allow = _statement(RET, RET_ERRNO | errno.EPERM), _statement(RET, RET_ALLOW)
    return [
        _jump(JEQ, call, 0, 5), _statement(LD_ABS, 24), _jump(JEQ, first, 1, 0), _jump(JEQ, second, 0, 1), deny, allow,
    ]  # fmt: skip


def _families(call: int) -> list[bytes]:
    """Sockets of a network namespace only (vsock, for one, has none), and of netlink only what asks for addresses."""
    deny, allow = _statement(RET, RET_ERRNO | errno.EPERM), _statement(RET, RET_ALLOW)
    no_family = _statement(RET, RET_ERRNO | errno.EAFNOSUPPORT)
    return [
        _jump(JEQ, call, 0, 14), _statement(LD_ABS, 16), _jump(JEQ, _AF_UNIX, 6, 0), _jump(JEQ, _AF_INET, 5, 0),
        _jump(JEQ, _AF_INET6, 4, 0), _jump(JEQ, _AF_NETLINK, 1, 0), no_family, _statement(LD_ABS, 32),
        _jump(JEQ, 0, 5, 4), _statement(LD_ABS, 24), _statement(AND, _TYPE_BITS), _jump(JGE, _SOCK_DCCP, 1, 0),
        _jump(JEQ, _SOCK_RAW, 0, 1), deny, allow,
    ]  # fmt: skip


def install(*, processes: bool = False, sockets: bool = False) -> None:
    """Filter every thread of this process, and what it starts, from now on, for ever; see `program`. Raises
    SeccompUnavailable.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES or not os.path.exists("/proc/self/status"):
        raise SeccompUnavailable(f"no system call filter for {machine}")
    code = program(machine, os.getpid(), processes=processes, sockets=sockets)
    instructions = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HxxxxxxP", len(code) // 8, ctypes.addressof(instructions))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise SeccompUnavailable(f"no_new_privs refused: {os.strerror(ctypes.get_errno())}")
    seccomp_number = _ARCHITECTURES[machine][2]
    done = libc.syscall(
        ctypes.c_long(seccomp_number),
        ctypes.c_ulong(SECCOMP_SET_MODE_FILTER),
        ctypes.c_ulong(SECCOMP_FILTER_FLAG_TSYNC),
        ctypes.c_char_p(header),
    )
    if done != 0:
        raise SeccompUnavailable(f"seccomp refused: {os.strerror(ctypes.get_errno())}")


def _statement(code: int, value: int) -> bytes:
    return struct.pack("<HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)
