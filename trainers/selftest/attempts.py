"""The table: what is attempted, in which processes, and what shows that the attempt is a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainers.selftest import files, kernel, limits, network, processes
from trainers.selftest.scene import Scene

Attack: TypeAlias = Callable[[Scene], str]
Role = Literal["command", "trainer"]
Judge = Literal["", "outlived", "artifact", "checkpoint", "archive", "supervisor"]
BOTH: tuple[Role, ...] = ("command", "trainer")
COMMAND: tuple[Role, ...] = ("command",)
TRAINER: tuple[Role, ...] = ("trainer",)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way out. `attack` says what it got, or raises OSError, `Stopped` or `Absent`.

    Args:
        roles: the processes that it is tried in, a batch job's command or a trainer child.
        control: what is run outside, where it must succeed to show that it is a real attempt; the attack itself if None.
        alone: it takes its process along, so it gets one of its own.
        way_out: it has one, as a command whose offer and job allow the network.
        judge: who says from outside whether it worked, when it cannot know itself; see `judges.py`.
    """

    name: str
    attack: Attack
    roles: tuple[Role, ...] = BOTH
    control: Attack | None = None
    alone: bool = False
    way_out: bool = False
    judge: Judge = ""

    @property
    def tries(self) -> str:
        """What it is after, in a few words."""
        return (self.attack.__doc__ or "").rstrip(".")


ATTEMPTS: tuple[Attempt, ...] = (
    Attempt("read-keys", files.read_secret),
    Attempt("read-home", files.read_home),
    Attempt("read-shadow", files.read_shadow),
    Attempt("read-neighbour", files.read_neighbour),
    Attempt("write-neighbour", files.write_neighbour),
    Attempt("write-packages", files.write_packages),
    Attempt("hard-link", files.link_secret),
    Attempt("artifact-link", files.leave_link, COMMAND, control=files.follow_link, judge="artifact"),
    Attempt("checkpoint-link", files.leave_folder_link, COMMAND, control=files.follow_folder_link, judge="checkpoint"),
    Attempt("archive-names", files.leave_archive, COMMAND, control=files.unpack_archive, judge="archive"),
    Attempt("proc-root", files.through_proc_root),
    Attempt("proc-environ", files.read_environments),
    Attempt("proc-mem", files.write_memory),
    Attempt("proc-supervisor", files.write_supervisor, COMMAND, control=files.write_memory),
    Attempt("proc-sys", files.write_settings),
    Attempt("sysrq", files.press_sysrq),
    Attempt("kernel-memory", files.read_kernel_memory),
    Attempt("disk-device", files.read_disk),
    Attempt("mknod", files.make_disk_node),
    Attempt("other-cards", files.open_cards),
    Attempt("mount", kernel.mount),
    Attempt("fsopen", kernel.open_file_system),
    Attempt("unshare", kernel.unshare_user),
    Attempt("clone3", kernel.clone3_user),
    Attempt("setns", kernel.enter_namespace),
    Attempt("chroot", kernel.change_root),
    Attempt("pivot-root", kernel.pivot_root),
    Attempt("bpf", kernel.load_bpf),
    Attempt("keyring", kernel.use_keyring),
    Attempt("io-uring", kernel.use_io_uring),
    Attempt("ptrace", kernel.trace),
    Attempt("vm-readv", kernel.read_process),
    Attempt("kcmp", kernel.compare_processes),
    Attempt("pidfd-getfd", kernel.steal_descriptor),
    Attempt("userfaultfd", kernel.use_userfaultfd),
    Attempt("perf", kernel.use_perf),
    Attempt("file-handle", kernel.open_by_handle),
    Attempt("kernel-module", kernel.load_module),
    Attempt("kexec", kernel.load_kernel),
    Attempt("reboot", kernel.reboot),
    Attempt("swap", kernel.swap),
    Attempt("accounting", kernel.account),
    Attempt("clock", kernel.set_clock),
    Attempt("host-name", kernel.set_host_name),
    Attempt("kernel-log", kernel.read_log),
    Attempt("fanotify", kernel.watch_files),
    Attempt("capabilities", kernel.gain_capabilities),
    Attempt("setuid", kernel.become_another),
    Attempt("32-bit-calls", kernel.other_calling_convention, COMMAND),
    Attempt("shared-segment", kernel.shared_segment),
    Attempt("kill", processes.signal_others),
    Attempt("signal-storm", processes.storm, COMMAND, control=processes.kill_one, alone=True, judge="supervisor"),
    Attempt("outlive", processes.outlive, COMMAND, alone=True, judge="outlived"),
    Attempt("inherited", processes.use_inherited, COMMAND, control=processes.use_inherited_of_control),
    Attempt("terminal", processes.type_to_terminal, BOTH, control=processes.type_to_own_terminal),
    Attempt("core-dump", processes.dump_core, COMMAND),
    Attempt("raise-limits", processes.raise_limits),
    Attempt("tcp-loopback", network.tcp),
    Attempt("stolen-key", network.api),
    Attempt("udp", network.udp),
    Attempt("abstract-socket", network.abstract_socket),
    Attempt("file-socket", network.file_socket),
    Attempt("raw-socket", network.raw),
    Attempt("packet-socket", network.packet),
    Attempt("vsock", network.vsock),
    Attempt("audit-socket", network.audit),
    Attempt("cipher-socket", network.crypto),
    Attempt("metadata", network.metadata),
    Attempt("internet", network.outward),
    Attempt("own-network", network.own_network, COMMAND),
    Attempt("way-out-loopback", network.through_to_loopback, COMMAND, control=network.tcp, way_out=True),
    Attempt("way-out-name", network.through_by_name, COMMAND, control=network.tcp, way_out=True),
    Attempt("way-out-page", network.through_to_page, COMMAND, control=network.tcp, way_out=True),
    Attempt("way-out-disguised", network.through_disguised, COMMAND, control=network.tcp, way_out=True),
    Attempt("way-out-key", network.through_with_key, COMMAND, control=network.api, way_out=True),
    Attempt("way-out-metadata", network.through_to_metadata, COMMAND, control=network.metadata, way_out=True),
    Attempt("fork-bomb", limits.fork_bomb, COMMAND, alone=True),
    Attempt("thread-bomb", limits.thread_bomb, TRAINER, alone=True),
    Attempt("memory-bomb", limits.memory_bomb, COMMAND, alone=True),
    Attempt("address-space", limits.one_memory_bomb),
    Attempt("disk-fill", limits.disk_fill, COMMAND, alone=True),
    Attempt("ram-disks", limits.ram_disks),
    Attempt("open-files", limits.many_files),
    Attempt("huge-file", limits.huge_file),
)
BY_NAME = {one.name: one for one in ATTEMPTS}
