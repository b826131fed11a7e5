"""The folder in which a market lives (TORG_HOME): which file is where, and how the small ones are written.

The folder is an argument everywhere; nothing here reads the environment, the clock or the network.

    market.json    url, host, port, supervisor_pid, public_key, ca         (found by every command)
    keys.json      operator, customer, provider, plane: the plain keys of the local accounts  (0600)
    secrets.key    AES-256 key, 32 bytes in hex: seals members' secrets                       (0600)
    secrets/       sealed secrets, one file each                                               (0700)
    market.key     Ed25519 private key, 32 bytes in hex: signs provenance bundles             (0600)
    cosigned.json  heads of the log that members have cosigned; can be made again             (0600)
    log.key        secret behind the log's salts, 32 bytes in hex                             (0600)
    journal/       the record                          blobs/        content-addressed bytes
    snapshots/     the market at some record (storage/snapshots.py)
    books/         books.duckdb, the projection        uploads.log   who uploaded which blob (quotas)
    blobs.json     the bucket that holds the blobs instead, and perhaps its keys              (0600)
    blob_ram.json  how much RAM copies of blobs may have, where that was said
    mirrors.json   where the journal is mirrored to, and perhaps keys of buckets              (0600)
    run/           *.pid, books.json (port), ray.json, archive.json  logs/         one file per process, jobs/ID.log
    lock           held by the one supervisor          moved.json    this market lives elsewhere now: it does not start
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCAL_MEMBERS = ("operator", "customer", "provider", "plane")
PROCESSES = ("exchange", "books", "archive", "head")


@dataclass(frozen=True, slots=True)
class Home:
    """Paths under one home folder. Making this object touches nothing."""

    root: Path

    @property
    def market_file(self) -> Path:
        return self.root / "market.json"

    @property
    def keys_file(self) -> Path:
        return self.root / "keys.json"

    @property
    def signing_key_file(self) -> Path:
        return self.root / "market.key"

    @property
    def log_key_file(self) -> Path:
        return self.root / "log.key"

    @property
    def cosigned_file(self) -> Path:
        """The newest head of the log that each member has cosigned."""
        return self.root / "cosigned.json"

    @property
    def log_index(self) -> Path:
        """The leaves of the journal's log; can be made again (storage/transparency.py)."""
        return self.books / "log.tree"

    @property
    def secrets_key_file(self) -> Path:
        return self.root / "secrets.key"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    @property
    def moved_file(self) -> Path:
        """Says when and into which backup this market was moved; where it is, no market starts."""
        return self.root / "moved.json"

    @property
    def journal(self) -> Path:
        return self.root / "journal"

    @property
    def snapshots(self) -> Path:
        """The market at some record, so that a start need not read the whole journal; can be made again."""
        return self.root / "snapshots"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def blobs_file(self) -> Path:
        """Names the bucket that holds the blobs; without it they are in the folder."""
        return self.root / "blobs.json"

    @property
    def mirrors_file(self) -> Path:
        """Names the mirrors of the journal."""
        return self.root / "mirrors.json"

    @property
    def uploads_file(self) -> Path:
        return self.root / "uploads.log"

    @property
    def books(self) -> Path:
        return self.root / "books"

    @property
    def books_database(self) -> Path:
        return self.books / "books.duckdb"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def job_logs(self) -> Path:
        return self.logs / "jobs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def ray_file(self) -> Path:
        return self.run / "ray.json"

    @property
    def books_file(self) -> Path:
        """Where the books process says on which port it answers."""
        return self.run / "books.json"

    @property
    def archive_file(self) -> Path:
        """Where the archive process says what keeps segments from the archive; not there where nothing does."""
        return self.run / "archive.json"

    def pid_file(self, process: str) -> Path:
        return self.run / f"{process}.pid"

    def log_file(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def make_folders(self) -> None:
        """Make what is missing; the home itself is closed to other accounts."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for folder in (self.journal, self.snapshots, self.blobs, self.books, self.logs, self.job_logs, self.run):
            folder.mkdir(exist_ok=True)

    def read_market(self) -> dict[str, Any]:
        """The content of market.json; empty where there is no market yet."""
        return read_json(self.market_file)

    @property
    def ca(self) -> Path | None:
        """What clients on this machine trust of an https:// market: its certificate's file, which market.json names."""
        found = self.read_market().get("ca")
        return Path(found) if found else None

    def read_keys(self) -> dict[str, str]:
        """Member name → plain key of the local accounts; empty where there is no market yet."""
        return {name: str(key) for name, key in read_json(self.keys_file).items()}

    def read_pid(self, process: str) -> int | None:
        """The process id that was written for `process`; it may be dead by now."""
        try:
            return int(self.pid_file(process).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def write_pid(self, process: str, pid: int) -> None:
        write_file(self.pid_file(process), f"{pid}\n".encode("ascii"), mode=0o644, durable=False)

    def forget_pid(self, process: str) -> None:
        self.pid_file(process).unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, empty if there is none. A file that is not a JSON object raises ValueError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return found


def write_json(path: Path, content: Mapping[str, Any], *, mode: int = 0o644) -> None:
    """Replace a JSON file as a whole: a reader sees the old one or the new one, also after a power cut."""
    write_file(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("utf-8"), mode=mode)


def write_file(path: Path, content: bytes, *, mode: int, durable: bool = True) -> None:
    """Write beside, then rename over. The mode holds from the first byte on, so a secret is never readable."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def kept_key(path: Path) -> bytes:
    """A raw Ed25519 key (32 bytes) that a file keeps in hex, made if it is missing (0600). Raises OSError, ValueError."""
    from storage.signing import new_signing_key

    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        key = new_signing_key()
        write_file(path, key.hex().encode("ascii") + b"\n", mode=0o600)
    if len(key) != 32:
        raise ValueError(f"{path} does not hold an Ed25519 key of 32 bytes")
    return key


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def pid_is_alive(pid: int) -> bool:
    """Whether a process of that id exists and is not a zombie (Linux: read from /proc, else by signal 0)."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
