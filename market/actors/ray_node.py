"""One place that configures Ray and starts the nodes of a market.

Measured on two quiet cores with Ray 2.60: `ray._private.node.Node` in a process of ours has a head up 1.3 s after
`import ray` (0.5-0.9 s), 0.3 s with the agents replaced (`quiet_agent.py`), a driver attached 0.05 s later and a joining
node up in 1.1 s; a node then costs 40 MB instead of 210. `ray start --head --block` takes 8-11 s and a joining
`ray start` 7 s, because the command itself imports the whole of Ray's tooling. So a process of ours owns the `Node`.
Its raylet and GCS carry PR_SET_PDEATHSIG: whatever kills our process, SIGKILL included, takes the node along, and
nothing is left to reap.

A node on the loopback address listens on the loopback interface only. Ports are the kernel's choice (its ephemeral
range lies outside 10002-19999, which Ray gives to its workers), so several nodes on one machine never collide.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMESPACE = "torg"

MEBIBYTE = 2**20

_HEAD_AWAY = "RAY_gcs_rpc_server_reconnect_timeout_s"
NODE_OUTLIVES_HEAD_S = 15

_FOLDERS = "/tmp"  # noqa: S108 - mkdtemp makes it private
_FOLDER_PREFIX = "torg-"
_OWNER = "owner"

# Variables that would silently redirect or re-authenticate us if a shell had set them.
_FOREIGN_VARIABLES = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_NAMESPACE", "RAY_REDIS_ADDRESS", "RAY_RUNTIME_ENV_HOOK")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What one Ray node of ours is: its address, its token file (mode 0600) and its sizes."""

    node_ip: str
    token_path: Path
    cpus: int
    object_store_bytes: int = 100 * MEBIBYTE
    labels: Mapping[str, str] | None = None


def write_token(path: Path, token: str | None = None) -> str:
    """Put a cluster token (a new one unless given) into `path` with mode 0600 and return it.

    A token already there is kept when none is given, so that a restarted head is met by the same clients.
    """
    if token is None and path.exists():
        return path.read_text(encoding="ascii")
    value = token if token is not None else secrets.token_hex(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as stream:
        stream.write(value)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)
    return value


def ray_environment(token_path: Path, node_ip: str) -> dict[str, str]:
    """The variables that every process of a cluster must have before it imports ray.

    Ray reads them at import, and a raylet hands its own environment on to every actor process, so they are set once
    in the process that starts the node.
    """
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_path),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_enable_timeline": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "1",
        "RAY_health_check_initial_delay_ms": "2000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "5",
        # Tenants' memory is limited at the trainer child; Ray's killer would choose a WorkerActor by size instead.
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_DEDUP_LOGS": "0",
        # A patch release apart is fine: nothing of ours is pickled with code but classes that both sides have installed.
        "RAY_DEFAULT_PYTHON_VERSION_MATCH_LEVEL": "minor",
        # Ray ends a process whose head is away for longer. A host waits for its market for days, and joins the next head.
        _HEAD_AWAY: str(30 * 86_400),
        # A copy on a node that has died is tried for this long before another is (10 s by default): a newcomer fetches
        # the job from wherever Ray knows of it.
        "RAY_object_manager_pull_timeout_ms": "1000",
        # How long a call to a process that is gone waits to hear why (1 s by default, twice) before it fails.
        "RAY_timeout_ms_task_wait_for_death_info": "250",
    }
    if ipaddress.ip_address(node_ip).is_loopback:
        # Without it ray.init replaces a loopback address by the machine's outer one, where nothing listens.
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return variables


def enter_ray(token_path: Path, node_ip: str) -> None:
    """Set `ray_environment` for this process and its descendants; must run before ray is imported."""
    assert "ray" not in sys.modules, "ray reads its environment at import"
    for name in _FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(ray_environment(token_path, node_ip))
    # Actor processes import our packages from where we did, installed or not, whatever folder they start in.
    root = str(Path(__file__).resolve().parents[2])
    if root in sys.path or "" in sys.path:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


class RayNode:
    """A Ray node owned by this process, with a temp folder of its own that goes with it."""

    def __init__(self, node: Any, temp_dir: Path) -> None:
        self._node = node
        self.temp_dir = temp_dir
        self.address: str = node.gcs_address
        self.node_id: str = node.node_id
        self.node_ip: str = node.node_ip_address

    def connect(self) -> None:
        """Attach this process to the node as a driver in our namespace.

        Told apart by temp folder: several nodes may share one IP address, and Ray would prefer the head's.
        Replaces the SIGTERM handler, so install yours afterwards.
        """
        attach(self.address, self.node_ip, self.temp_dir)

    def alive(self) -> bool:
        """Whether every process of the node still runs."""
        return bool(self._node.remaining_processes_alive())

    def pids(self) -> list[int]:
        """Process ids of the node's own processes (raylet, and GCS on a head)."""
        return [process.pid for _, process in self._node.live_processes()]

    def stop(self) -> None:
        """Detach, end the node's processes and remove its temp folder; about 0.1 s once the actors are gone."""
        import ray

        if ray.is_initialized():
            ray.shutdown()
        self.abandon()

    def abandon(self) -> None:
        """End the node's processes and remove its folder without a word to its head, which may be gone.

        The process stays a driver of a cluster that it can no longer use.
        """
        self._node.kill_all_processes(check_alive=False, allow_graceful=True, wait=True)
        shutil.rmtree(self.temp_dir, ignore_errors=True)


def start_head(settings: NodeSettings) -> RayNode:
    """Start the GCS and a raylet here; needs `enter_ray` first. Raises when Ray does not come up within 30 s."""
    return _start(settings, gcs_address=None)


def join(settings: NodeSettings, address: str) -> RayNode:
    """Start a raylet here that joins the cluster at `address` ("host:port"); needs `enter_ray` first."""
    return _start(settings, gcs_address=address)


def attach(address: str, node_ip: str, temp_dir: Path | None = None) -> None:
    """Make this process a driver of the cluster at `address` through a raylet on this machine."""
    import ray

    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        logging_level="warning",
        _node_ip_address=node_ip,
        _temp_dir=None if temp_dir is None else str(temp_dir),
    )


def sweep_folders(*, former_life: bool = False) -> list[Path]:
    """Remove and return the folders of nodes whose process was killed before it could do so itself.

    A folder counts only if it is ours and names a process of this process namespace that has ended. former_life: also
    those of this very process, which began anew (`exec`) and has no node yet.
    """
    swept = []
    for mark in Path(_FOLDERS).glob(f"{_FOLDER_PREFIX}*/{_OWNER}"):
        try:
            told = mark.read_text(encoding="ascii")
            pid, _, namespace = told.split()
            ours = mark.stat().st_uid == os.getuid() and namespace == _mark_of(os.getpid()).split()[2]
        except (OSError, ValueError):
            continue
        left = former_life and int(pid) == os.getpid()
        if ours and (left or _mark_of(int(pid)) != told):
            shutil.rmtree(mark.parent, ignore_errors=True)
            swept.append(mark.parent)
    return swept


def _mark_of(pid: int) -> str:
    """ "pid start-time process-namespace" of a process; empty if there is none. A reused pid has another start time."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        namespace = os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else f"{pid} {fields[19]} {namespace}"


def _start(settings: NodeSettings, gcs_address: str | None) -> RayNode:
    from ray._private import services
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class QuietNode(Node):  # type: ignore[misc]  # ray is untyped
        """A node without the dashboard's API server and with stand-ins for the agents: nobody asks any of them."""

        def start_api_server(self, *, include_dashboard: bool | None, raise_on_failure: bool) -> None:
            return

        def start_raylet(self, *arguments: Any, **options: Any) -> None:
            start_process = services.start_ray_process

            def start_without_agents(command: list[str], *rest: Any, **named: Any) -> Any:
                return start_process(
                    _without_agents(command, self.get_session_dir_path(), self.node_id), *rest, **named
                )

            patience = os.environ[_HEAD_AWAY]
            services.start_ray_process = start_without_agents
            os.environ[_HEAD_AWAY] = str(NODE_OUTLIVES_HEAD_S)  # the raylet and its actors inherit this
            try:
                super().start_raylet(*arguments, **options)
            finally:
                services.start_ray_process = start_process
                os.environ[_HEAD_AWAY] = patience

    sweep_folders()
    # Socket paths end at 107 bytes, so a node lives right under /tmp and not in somebody's deep home.
    temp_dir = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX, dir=_FOLDERS))
    (temp_dir / _OWNER).write_text(_mark_of(os.getpid()), encoding="ascii")
    parameters = RayParams(
        num_cpus=settings.cpus,
        num_gpus=0,
        object_store_memory=settings.object_store_bytes,
        labels=dict(settings.labels or {}),
        node_ip_address=settings.node_ip,
        node_name=temp_dir.name,
        temp_dir=str(temp_dir),
        gcs_address=gcs_address,
        redis_address=gcs_address,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
    )
    try:
        node = QuietNode(parameters, head=gcs_address is None, shutdown_at_exit=False, spawn_reaper=True)
    except BaseException:
        shutil.rmtree(temp_dir, ignore_errors=True)
        raise
    return RayNode(node, temp_dir)


def _without_agents(command: list[str], session_folder: str, node_id: str) -> list[str]:
    """A raylet's command line with stand-ins for its agents; needs Ray 2.60's option names, which are asserted."""
    stand_in = f"{sys.executable} -S -E {Path(__file__).with_name('quiet_agent.py')} {session_folder} {node_id}"
    agents = {
        "--dashboard_agent_command=": "dashboard_agent_listen_port metrics_agent_port metrics_export_port",
        "--runtime_env_agent_command=": "runtime_env_agent_port",
    }
    for option, ports in agents.items():
        places = [index for index, part in enumerate(command) if part.startswith(option)]
        assert len(places) == 1, f"this raylet has no {option[2:-1]}"
        command = [*command]
        command[places[0]] = f"{option}{stand_in} {ports}"
    return command
