"""The processes that are killed: a nursery that forks a writer for each life, and the writer itself.

Lines of JSON both ways. In, to the nursery: one life (see `storm.py`); then to the writer: `go`. Out: what the writer's
disk made durable, `ready` after a recovery, `asked` before and `answered` after each thing that it wants of the exchange,
and at last from the nursery `ended` with the exit status.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import resource
import time
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from market.api.desk import Desk
from market.api.feed import Feed
from market.api.opening import open_market, wall_ms
from market.api.problems import Problem
from market.book_commands import BookTransfers, ClosePeriod, CorrectTransfer
from market.commands import CancelJob, Command, Deposit, SubmitJob
from market.homes import Home
from market.outcomes import Refusal
from market.recollection import new_exchange
from market.torture.deadly_disk import DeadlyDisk, Fault
from storage.blobs import BlobDamaged, BlobError, BlobStore
from storage.journal import Journal, JournalError
from storage.journal_format import SEGMENT_HEADER
from storage.sealing import seal_segment, sealable, sealing

Line = dict[str, Any]
SEGMENT_BYTES = 4 * 1024
BLOCK_BYTES = 1024
SEAL_EVERY = 12
"""Wishes after which what can be sealed is sealed, as by a process beside the market."""
BUDGET_NANOS = 1_000_000_000
CUSTOMER = "customer"
EXIT_BROKEN, EXIT_DAMAGED = 70, 71
ASKERS = 4
STARVED_FOR = 3
"""Refusals for want of disk after which a starved writer gets its disk back."""


def main() -> None:
    """The nursery: reads lives from stdin until it ends; a writer never comes back here."""
    logging.disable(logging.CRITICAL)
    while line := _read_line():
        life = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(life)
        tell({"pid": pid})
        _, status = os.waitpid(pid, 0)
        tell({"ended": os.waitstatus_to_exitcode(status)})


def tell(line: Line) -> None:
    """One write, so that a line is whole or not there."""
    os.write(1, json.dumps(line, separators=(",", ":")).encode() + b"\n")


def _read_line() -> bytes:
    """Unbuffered: the next line may be for another process."""
    line = bytearray()
    while not line.endswith(b"\n"):
        letter = os.read(0, 1)
        if not letter:
            return b""
        line += letter
    return bytes(line)


def _live(life: Line) -> None:
    code = 0
    try:
        if life["hook"]:
            module, _, name = life["hook"].partition(":")
            getattr(import_module(module), name)()
        _Writer(life).run()
    except (JournalError, AssertionError, OSError) as error:
        tell({"failed": f"{type(error).__name__}: {error}"})
        code = EXIT_DAMAGED
    finally:
        os._exit(code)


class _Writer:
    def __init__(self, life: Line) -> None:
        self._life = life
        self._home = Home(Path(life["home"]))
        self._disk = DeadlyDisk(self._home.root, tell)
        self._random = Random(life["seed"])  # noqa: S311 - a life is repeated by its seed
        self._starved = 0
        self._held: list[str] = []
        self._deposited: list[str] = []
        self._next = life["first_id"]
        self._done = 0

    def run(self) -> None:
        """One life; comes back only where nobody killed it."""
        fault = Fault.of(self._life["fault"])
        began_ns = time.perf_counter_ns()
        self._home.make_folders()
        if self._life["fault_from"] == "opening":
            self._disk.fault = fault
        self._journal = Journal.open(self._home.journal, disk=self._disk, segment_bytes=SEGMENT_BYTES)
        self._blobs = BlobStore(self._home.blobs, disk=self._disk)
        self._blobs.clean()
        self._desk = Desk(self._journal, new_exchange, Feed(), now_ms=wall_ms, broken=_broken)
        open_market(self._home, self._desk)
        recovery_us = (time.perf_counter_ns() - began_ns) // 1000
        balance = self._desk.exchange.balance(CUSTOMER)
        tell({"ready": recovery_us, "records": self._journal.records, "wallet": balance["wallet_nanos"], "escrow": balance["escrow_nanos"]})
        _read_line()
        self._disk.fault = fault
        if self._life["room_bytes"] is not None:
            self._starve(self._life["room_bytes"])
        asyncio.run(self._work())

    def _starve(self, room_bytes: int) -> None:
        """No file of this process may grow past the journal's length of now and a little."""
        durable_bytes = max(self._journal.durable.bytes, SEGMENT_HEADER.size)  # the file may be longer, by room
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (durable_bytes + room_bytes, hard))

    def _feed(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    async def _work(self) -> None:
        loops = [asyncio.create_task(self._desk.write()), asyncio.create_task(self._desk.tick())]
        try:
            for known in self._life["again"]:
                await self._do(known)
            await asyncio.gather(*(self._ask_on() for _ in range(ASKERS)))
        finally:
            for loop in loops:
                loop.cancel()

    async def _ask_on(self) -> None:
        while self._next < self._life["first_id"] + self._life["most"]:
            await self._do(self._invent())

    def _invent(self) -> Line:
        id = f"t{self._next}"
        self._next += 1
        drawn = self._random.random()
        if drawn < 0.38 or (drawn < 0.5 and not self._deposited):
            return {"id": id, "what": "deposit", "nanos": self._random.randint(1, 5) * BUDGET_NANOS}
        if drawn < 0.44:
            return {"id": id, "what": "batch", "nanos": [self._random.randint(1, 99) for _ in range(self._random.randint(1, 9))]}
        if drawn < 0.48:
            return {"id": id, "what": "correct", "of": self._random.choice(self._deposited), "nanos": self._random.randint(1, 9)}
        if drawn < 0.5:
            return {"id": id, "what": "close"}
        if drawn < 0.65 or (drawn < 0.72 and not self._held):
            self._held.append(id)
            return {"id": id, "what": "hold", "nanos": BUDGET_NANOS}
        if drawn < 0.72:
            return {"id": self._held.pop(self._random.randrange(len(self._held))), "what": "release"}
        what = "put" if drawn < 0.86 else "upload" if drawn < 0.97 else "delete"
        return {"id": id, "what": what, "length": self._random.randint(1, 3000)}

    def _seal(self) -> None:
        """All but the newest segments: these are read as they were written, too."""
        folder = self._home.journal
        with sealing(folder) as mine:
            for first in sealable(folder, self._journal.durable.first)[:-1] if mine else ():
                try:
                    seal_segment(folder, first, disk=self._disk, block_bytes=BLOCK_BYTES)
                except OSError as error:
                    tell({"refused": f"segment {first}", "why": type(error).__name__})
                    return

    async def _do(self, wish: Line) -> None:
        """Ask, and tell the answer once it was given; until it is a good or a final one."""
        tell({"asked": wish})
        self._done += 1
        if self._done % SEAL_EVERY == 0:
            self._seal()
        if wish["what"] in ("put", "upload", "delete"):
            try:
                self._blob(wish)
                tell({"answered": [wish["what"], wish["id"]]})
            except (BlobError, OSError) as error:
                tell({"refused": wish["id"], "why": type(error).__name__})
            await asyncio.sleep(0)
            return
        try:
            outcome = await self._desk.ask(_command(wish))
        except Problem as problem:
            tell({"refused": wish["id"], "why": problem.code})
            await self._hungry()
            return
        if isinstance(outcome.answer, Refusal):
            tell({"refused": wish["id"], "why": outcome.answer.code})
            return
        assert isinstance(outcome.answer, dict), "one of these commands"
        if wish["what"] == "batch":
            booked = outcome.answer["created"] + outcome.answer["existed"]
            assert (booked, outcome.answer["refused"]) == (len(wish["nanos"]), 1), outcome.answer
        elif wish["what"] == "deposit":
            self._deposited.append(wish["id"])
        tell({"answered": [wish["what"], wish["id"]], "through_ms": outcome.answer.get("through_ms")})

    async def _hungry(self) -> None:
        self._starved += 1
        if self._starved == STARVED_FOR and self._life["room_bytes"] is not None:
            self._feed()
        while self._desk.full and self._starved >= STARVED_FOR:
            await asyncio.sleep(0.02)
        if not self._desk.full:
            tell({"healed": True})

    def _blob(self, wish: Line) -> None:
        data = content(wish["id"], wish["length"])
        digest = hashlib.sha256(data).hexdigest()
        if wish["what"] == "put":
            self._blobs.put(data)
            return
        if wish["what"] == "delete":
            self._blobs.put(data)
            self._blobs.delete(digest)
            return
        while True:
            stands = min(self._blobs.partial(digest), len(data))
            with contextlib.suppress(BlobDamaged):  # what a power cut left of it: it begins again
                piece = data[stands : stands + 1000]
                if self._blobs.upload(digest, stands, len(data), piece).whole:
                    return


def content(id: str, length: int) -> bytes:
    """The bytes of a blob follow from its id, so that the parent needs only that."""
    return Random(id).randbytes(length)  # noqa: S311 - anybody may know them


def _command(wish: Line) -> Command:
    if wish["what"] == "deposit":
        return Deposit(wish["id"], CUSTOMER, wish["nanos"], "operator")
    if wish["what"] == "batch":
        names = [f"{wish['id']}-{place}" for place in range(len(wish["nanos"]) + 1)]
        kinds = [*("deposit" for _ in wish["nanos"]), "payout"]  # of what nobody has earned: it is refused, and kept as refused
        members = [*(CUSTOMER for _ in wish["nanos"]), "provider"]
        return BookTransfers("operator", names, kinds, members, [*wish["nanos"], BUDGET_NANOS])
    if wish["what"] == "correct":
        return CorrectTransfer(wish["id"], wish["of"], wish["nanos"], "to see whether it lasts", "operator")
    if wish["what"] == "close":
        return ClosePeriod(None, "operator")
    if wish["what"] == "hold":
        return SubmitJob(wish["id"], _spec(wish["nanos"]), CUSTOMER)
    return CancelJob(wish["id"], CUSTOMER)


def _spec(budget_nanos: int) -> Line:
    """A job that waits for hardware of which there is none here, its budget in escrow."""
    return {
        "name": "torture", "workload": {"kind": "builtin", "name": "byte_lm"}, "options": {}, "data": {"kind": "none"},
        "strategy": {"name": "diloco", "inner_steps": 30, "outer_lr": 0.7, "outer_momentum": 0.9, "codec": "int8"},
        "steps": 90, "rounds": 3,
        "workers": {"min": 1, "max": 1, "gpus": 1, "gpu": ["cpu"], "vram_gib": 0, "region": ["nowhere"], "reliability": 0.0, "isolation": "process"},
        "limits": {"max_price_nanos_per_gpu_hour": 900_000_000, "budget_nanos": budget_nanos, "deadline_ms": None},
        "checkpoint": {"every_rounds": 1, "keep": 3}, "seed": 1, "tags": {}, "wait": True,
    }  # fmt: skip


def _broken(error: Exception) -> None:
    """As the exchange does."""
    tell({"broken": str(error)})
    os._exit(EXIT_BROKEN)


if __name__ == "__main__":
    main()
