"""Attempts on the kernel's doors: new namespaces, mounts, tracing, and calls with a history of holes."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import tempfile

from trainers.selftest.scene import BOOTY, Absent, Scene, Stopped, call, reached, struct_of

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
SIGCHLD = 17
PTRACE_ATTACH, PTRACE_DETACH = 16, 17


def mount(scene: Scene) -> str:
    """Mount a file system."""
    folder = tempfile.mkdtemp(dir=scene.own)
    try:
        call("mount", b"none\0", folder.encode() + b"\0", b"tmpfs\0", 0, None)
        ctypes.CDLL(None).umount2(folder.encode(), 2)
        return "a file system was mounted"
    finally:
        os.rmdir(folder)


def open_file_system(scene: Scene) -> str:
    """The newer calls that mount."""
    os.close(call("fsopen", b"tmpfs\0", 0))
    return "a file system is open"


def unshare_user(scene: Scene) -> str:
    """Become root of a new user namespace."""
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
    return "root of a namespace"


def clone3_user(scene: Scene) -> str:
    """The same by the newest way to start a process, whose arguments no filter can read."""
    arguments = struct_of("=11Q", CLONE_NEWUSER, 0, 0, 0, SIGCHLD, 0, 0, 0, 0, 0, 0)
    pid = call("clone3", arguments, 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a process in a namespace of its own"


def enter_namespace(scene: Scene) -> str:
    """Join the namespaces of a process of the provider."""
    descriptor = os.open(f"/proc/{scene.victim}/ns/net", os.O_RDONLY)
    call("setns", descriptor, 0)
    return "joined its network"


def change_root(scene: Scene) -> str:
    """Another root folder."""
    call("chroot", b"/\0")
    return "the root folder was changed"


def pivot_root(scene: Scene) -> str:
    """Another root file system."""
    return reached("pivot_root", b"/no/such/folder\0", b"/no/such/folder\0")


def load_bpf(scene: Scene) -> str:
    """A map in the kernel, and with it programs."""
    os.close(call("bpf", 0, struct_of("=4I", 2, 4, 8, 1), 16))
    return "a map was made"


def use_keyring(scene: Scene) -> str:
    """The kernel's store of keys."""
    return f"key {call('add_key', b'user' + bytes(1), b'torg' + bytes(1), b'x', 1, -2)}"


def use_io_uring(scene: Scene) -> str:
    """Calls that pass by the filter of calls."""
    os.close(call("io_uring_setup", 1, ctypes.create_string_buffer(120)))
    return "a ring was made"


def trace(scene: Scene) -> str:
    """Take a process of the provider over."""
    call("ptrace", PTRACE_ATTACH, scene.victim, 0, 0)
    os.waitpid(scene.victim, 0)
    call("ptrace", PTRACE_DETACH, scene.victim, 0, 0)
    return "it was traced"


def read_process(scene: Scene) -> str:
    """Read a process's memory by the call that is made for it."""
    return reached("process_vm_readv", scene.victim, 0, 0, 0, 0, 0)


def compare_processes(scene: Scene) -> str:
    """Ask whether two processes share something."""
    return reached("kcmp", scene.victim, scene.parent, 1, 0, 0)


def steal_descriptor(scene: Scene) -> str:
    """Take an open file of another process."""
    descriptor = call("pidfd_getfd", call("pidfd_open", scene.victim, 0), 0, 0)
    os.close(descriptor)
    return "its open file is ours"


def use_userfaultfd(scene: Scene) -> str:
    """Page faults in one's own hands, which makes races in the kernel easy."""
    os.close(call("userfaultfd", 0))
    return "page faults are ours"


def use_perf(scene: Scene) -> str:
    """Counters that see other processes."""
    attributes = ctypes.create_string_buffer(128)
    ctypes.memmove(attributes, bytes(struct_of("=2I", 1, 128)), 8)
    os.close(call("perf_event_open", attributes, -1, 0, -1, 0))
    return "a whole core is counted"


def open_by_handle(scene: Scene) -> str:
    """Files by number instead of name, past all mounts."""
    return reached("open_by_handle_at", -100, ctypes.create_string_buffer(144), 0)


def load_module(scene: Scene) -> str:
    """Code in the kernel."""
    return reached("init_module", b"no module", 9, b"\0")


def load_kernel(scene: Scene) -> str:
    """Another kernel."""
    return reached("kexec_load", 0, 1 << 20, 0, 1 << 60)


def reboot(scene: Scene) -> str:
    """The end of the machine (asked for in words that it does not know)."""
    return reached("reboot", 0, 0, 0, 0)


def swap(scene: Scene) -> str:
    """A swap file of one's own."""
    return reached("swapon", b"/no/such/file\0", 0)


def account(scene: Scene) -> str:
    """The kernel's accounting, into a file of one's choice."""
    return reached("acct", b"/no/such/file\0")


def set_clock(scene: Scene) -> str:
    """The machine's clock (to a time that is none)."""
    return reached("clock_settime", 0, struct_of("=2q", 0, 1 << 40))


def set_host_name(scene: Scene) -> str:
    """The machine's name (to what it is)."""
    name = platform.node().encode()
    return reached("sethostname", name, len(name))


def read_log(scene: Scene) -> str:
    """The kernel's log, and with it its addresses."""
    return reached("syslog", 3, ctypes.create_string_buffer(256), 256)


def watch_files(scene: Scene) -> str:
    """Everything that anybody opens."""
    os.close(call("fanotify_init", 0, 0))
    return "opened files are told"


def gain_capabilities(scene: Scene) -> str:
    """What root may do."""
    administrate = 1 << 21
    call("capset", struct_of("=Ii", 0x20080522, 0), struct_of("=6I", administrate, administrate, 0, 0, 0, 0))
    return "the rights of root"


def become_another(scene: Scene) -> str:
    """Another account's number, root's or (as root) anybody's."""
    os.setuid(0 if os.getuid() != 0 else 65533)
    return f"account {os.getuid()}"


def other_calling_convention(scene: Scene) -> str:
    """System calls by 32-bit numbers, which a filter of 64-bit ones misreads."""
    if platform.machine() != "x86_64":
        raise Absent("only x86_64 has two tables of calls")
    code = bytes.fromhex("53b814000000cd805bc3")  # push rbx; mov eax, 20 (getpid of i386); int 0x80; pop rbx; ret
    with mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(code)
        start = ctypes.addressof(ctypes.c_char.from_buffer(page))
        pid = int(ctypes.CFUNCTYPE(ctypes.c_int)(start)())
        if pid != os.getpid():
            raise Stopped("it got no answer")
        os._exit(42)  # the page has a pointer into it, so it cannot be closed


def shared_segment(scene: Scene) -> str:
    """Memory that the provider's programs share."""
    number = call("shmget", scene.segment, 64, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    found = libc.shmat(number, None, 0o10000)
    if BOOTY.encode() not in ctypes.string_at(found, 64):
        raise Stopped("another segment is there")
    libc.shmdt(ctypes.c_void_p(found))
    return "the segment was read"
