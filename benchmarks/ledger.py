"""How many transfers a second become durable: torg beside SQLite and PostgreSQL, in one run on one disk.

    python -m benchmarks.ledger [--seconds 2] [--recover 1000000] [--recover-snapshot 5000000] [--only-recovery | --only-single] [--folder DIR] [--json]

Batches of 1, 100 and 8,190 transfers: 99 in 100 are deposits into one of 1,000 wallets, one is a payout that must be refused.
torg's side is the market's own writer (`market/api/desk.py`): commands are decided, journaled, synced and only then answered.
SQLite has WAL and synchronous=FULL; PostgreSQL its usual durability, one function call a batch (benchmarks/ledger_baselines.py;
`make bench-postgresql` installs it; without it its figures are missing). The systems take turns, and the median of the turns counts. Beside
the rates: what one fdatasync of a small append takes on that disk, and torg's processor time within them. Then 64 callers that each wait
for their own deposit, 64 clients over HTTP with a key each (benchmarks/ledger_http.py), and recovery from the
journal alone and with a snapshot.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.ledger_baselines import Postgresql, Row, Sqlite, postgresql_programs, postgresql_server
from benchmarks.ledger_http import deposits_per_s
from benchmarks.report import Target, finish, parser, say
from market.api.desk import Desk
from market.api.feed import Feed
from market.api.settling import settle_memory
from market.book_commands import BookTransfers
from market.commands import AddMember, Deposit, OpenMarket
from market.exchange import Exchange
from market.recollection import Memory, Recollection, keep, new_exchange
from storage.journal import Journal, Walk
from storage.transfer_batches import MAX_BATCH, TransferBatch

WALLETS = 1_000
SIZES = (1, 100, MAX_BATCH)
TURNS = 3
SHORT_TURNS = 30  # of batches of 1: the disk's mood changes from one second to the next
CALLERS = 64


def main() -> int:
    """See the module."""
    arguments = parser(__doc__)
    arguments.add_argument("--seconds", type=float, default=2.0, help="of each turn")
    arguments.add_argument("--recover", type=int, default=1_000_000)
    arguments.add_argument("--recover-snapshot", type=int, default=5_000_000)
    arguments.add_argument("--only-recovery", action="store_true")
    arguments.add_argument("--only-single", action="store_true", help="batches of 1 alone")
    arguments.add_argument("--folder", type=Path, help="on the disk that is measured (default: where temporary files go)")
    chosen = arguments.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name, ExitStack() as stack:
        folder = Path(name)
        if chosen.only_recovery:
            figures = _recovery(folder / "recovery", chosen.recover, chosen.recover_snapshot)
            return finish(figures, _targets(figures), chosen.json)
        figures["fdatasync_ms"] = _fdatasync_ms(folder)
        say(chosen.json, f"fdatasync of a small append: {figures['fdatasync_ms']:.3f} ms")
        systems = _systems(folder, stack)
        settle_memory()  # as the exchange's process does
        for size in SIZES[:1] if chosen.only_single else SIZES:
            figures |= _turns(systems, size, chosen.seconds)
            said = ", ".join(f"{one} {figures[f'{one}_{size}_per_s']:,.0f}" for one in systems)
            say(chosen.json, f"batches of {size}: {said} transfers/s")
        figures |= _ratios(figures, systems)
        if chosen.only_single:
            return finish(figures, _targets(figures), chosen.json)
        figures |= _callers(folder / "callers", chosen.seconds)
        figures |= deposits_per_s(folder / "http", CALLERS, max(chosen.seconds, 3.0))
        figures |= _recovery(folder / "recovery", chosen.recover, chosen.recover_snapshot)
    return finish(figures, _targets(figures), chosen.json)


def _targets(figures: dict[str, float]) -> dict[str, Target]:
    bounds = {
        "ratio_to_sqlite_1": 1.0, "ratio_to_sqlite_8190": 3.0, "ratio_to_postgresql_8190": 3.0, "callers_64_ratio_to_single": 5.0,
        "http_deposits_per_s": 1_000.0,
    }  # fmt: skip
    found = {name: Target(figures[name], bound, at_most=False) for name, bound in bounds.items() if name in figures}
    return found | {name: Target(figures[name], 3.0) for name in ("recovery_1m_s", "recovery_5m_snapshot_s") if name in figures}


def _fdatasync_ms(folder: Path) -> float:
    handle = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT)
    taken = []
    for _ in range(200):
        os.write(handle, bytes(300))
        began = time.perf_counter()
        os.fdatasync(handle)
        taken.append(time.perf_counter() - began)
    os.close(handle)
    return statistics.median(taken) * 1000


class Books:
    """torg's writer over a journal of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.journal = Journal.open(folder / "journal")
        self.now_ms = 1_700_000_000_000
        self.desk = Desk(self.journal, new_exchange, Feed(), now_ms=self._now, broken=_broken)
        self.desk.decide_now(OpenMarket("bench", "1"))
        self.desk.decide_now(AddMember("op", "operator", f"{0:064x}", "market"))
        for number in range(WALLETS):
            self.desk.decide_now(AddMember(f"m{number}", "customer", f"{number + 1:064x}", "market"))
        self.desk.decide_now(AddMember("host", "provider", f"{WALLETS + 1:064x}", "market"))

    def _now(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def prepare(self, rows: Sequence[Row]) -> Deposit | BookTransfers:
        """The command that a route makes of a request."""
        if len(rows) == 1:
            id, _, _, credit, amount = rows[0]
            return Deposit(id, credit.removeprefix("wallet:"), amount, "op")
        ids, kinds, debits, credits, amounts = zip(*rows, strict=True)
        accounts = [_member(debit, credit) for debit, credit in zip(debits, credits, strict=True)]
        return BookTransfers("op", ids, kinds, accounts, amounts)

    def book(self, command: Deposit | BookTransfers) -> int:
        """Decide, write, sync; how many were booked."""
        outcome = self.desk.decide_now(command)
        assert isinstance(outcome.answer, dict), outcome.answer
        return int(outcome.answer.get("created", outcome.created))

    def close(self) -> None:
        self.journal.close()


def _member(debit: str, credit: str) -> str:
    return (credit if debit == "world" else debit).partition(":")[2]


def _broken(error: Exception) -> None:
    raise SystemExit(f"the journal is broken: {error}")


def rows_of(draw: random.Random, size: int) -> Iterator[list[Row]]:
    number = 0
    while True:
        made: list[Row] = []
        for _ in range(size):
            number += 1
            id = f"t-{size}-{number:010d}"
            if size > 1 and number % 100 == 0:
                made.append((id, "payout", "earnings:host", "world", 1))
            else:
                made.append((id, "deposit", "world", f"wallet:m{draw.randrange(WALLETS)}", draw.randrange(1, 10**9)))
        yield made


def _systems(folder: Path, stack: ExitStack) -> dict[str, Any]:
    accounts = ["world", "earnings:host", *(f"wallet:m{number}" for number in range(WALLETS))]
    found: dict[str, Any] = {"torg": Books(folder / "torg"), "sqlite": Sqlite(folder / "sqlite.db", accounts)}
    if postgresql_programs() is not None:
        sockets = stack.enter_context(postgresql_server(folder / "postgresql"))
        found["postgresql"] = Postgresql(sockets, accounts)
    for system in found.values():
        stack.callback(system.close)
    return found


def _turns(systems: dict[str, Any], size: int, seconds: float) -> dict[str, float]:
    rows = {name: rows_of(random.Random(1), size) for name in systems}
    rates: dict[str, list[float]] = {name: [] for name in systems}
    cpu: list[float] = []
    turns = SHORT_TURNS if size == 1 else TURNS
    for _ in range(turns):
        for name, system in systems.items():
            rate, cpu_us = _rate(system, rows[name], seconds * TURNS / turns)
            rates[name].append(rate)
            if name == "torg":
                cpu.append(cpu_us)
    found = {f"{name}_{size}_per_s": statistics.median(one) for name, one in rates.items()}
    return found | {f"torg_{size}_cpu_us": statistics.median(cpu)}


def _rate(system: Any, rows: Iterator[list[Row]], seconds: float) -> tuple[float, float]:
    """Transfers a second of the time within `book`, and what of the processor each took there in microseconds."""
    taken, cpu, done = 0.0, 0.0, 0
    while taken < seconds:
        batch = next(rows)
        prepared = system.prepare(batch)
        began_cpu, began = time.process_time(), time.perf_counter()
        booked = system.book(prepared)
        taken += time.perf_counter() - began
        cpu += time.process_time() - began_cpu
        assert booked == len(batch) - sum(one[1] == "payout" for one in batch), "booked what should be refused, or less"
        done += len(batch)
    return done / taken, cpu / done * 1e6


def _ratios(figures: dict[str, float], systems: dict[str, Any]) -> dict[str, float]:
    return {
        f"ratio_to_{name}_{size}": figures[f"torg_{size}_per_s"] / figures[f"{name}_{size}_per_s"]
        for name in systems if name != "torg" for size in SIZES if f"{name}_{size}_per_s" in figures
    }  # fmt: skip


def _callers(folder: Path, seconds: float) -> dict[str, float]:
    """CALLERS tasks that each wait for the answer to one deposit before they make the next, and one alone, in short turns."""
    books = Books(folder)
    rates: dict[int, list[float]] = {1: [], CALLERS: []}

    async def call(name: str, until: float) -> int:
        done = 0
        while time.perf_counter() < until:
            outcome = await books.desk.ask(Deposit(f"{name}-{done}", "m1", 1, "op"))
            assert outcome.created
            done += 1
        return done

    async def together(callers: int, turn: int) -> float:
        began = time.perf_counter()
        until = began + seconds * TURNS / SHORT_TURNS
        done = sum(await asyncio.gather(*(call(f"c{callers}-{turn}-{one}", until) for one in range(callers))))
        return done / (time.perf_counter() - began)

    async def turns() -> None:
        writer = asyncio.create_task(books.desk.write())
        for turn in range(SHORT_TURNS):
            for callers, found in rates.items():
                found.append(await together(callers, turn))
        writer.cancel()

    uvloop.run(turns())  # the exchange's loop
    books.close()
    alone, many = (statistics.median(rates[callers]) for callers in (1, CALLERS))
    return {"caller_alone_per_s": alone, f"callers_{CALLERS}_per_s": many, f"callers_{CALLERS}_ratio_to_single": many / alone}


def _recovery(folder: Path, transfers: int, snapshot: int) -> dict[str, float]:
    """Seconds from opening the journal to a market that can decide, as the exchange process does it: from the journal alone, and
    with a snapshot of so many transfers."""
    journal, snapshots = folder / "books" / "journal", folder / "snapshots"
    snapshots.mkdir(parents=True)
    books = Books(folder / "books")
    rows = rows_of(random.Random(2), MAX_BATCH)
    while len(books.desk.exchange.state.ledger) < transfers:
        books.book(books.prepare(next(rows)))
    balances = books.desk.exchange.balances()
    books.close()
    found, exchange = _recovered(f"recovery_{transfers // 1_000_000}m", journal, snapshots)
    assert exchange.balances() == balances, "the journal does not give what was booked"
    _keep_more(exchange, snapshot, journal, snapshots)
    balances, last = exchange.balances(), exchange.state.ledger.transfer("s-1")
    del exchange
    again, exchange = _recovered(f"recovery_{snapshot // 1_000_000}m_snapshot", journal, snapshots)
    assert exchange.balances() == balances, "the snapshot does not give what was kept"
    assert exchange.state.ledger.transfer("s-1") == last, "an id is forgotten"
    return found | again


def _recovered(name: str, folder: Path, snapshots: Path) -> tuple[dict[str, float], Exchange]:
    began, cpu = time.perf_counter(), time.process_time()
    memory = Memory(snapshots, folder)
    with Journal.open(folder, since=memory.place) as journal:
        desk = Desk(journal, new_exchange, Feed(), now_ms=lambda: 0, broken=_broken, recall=memory.recall)
    return {f"{name}_s": time.perf_counter() - began, f"{name}_cpu_s": time.process_time() - cpu}, desk.exchange


def _keep_more(exchange: Exchange, transfers: int, journal: Path, snapshots: Path) -> None:
    """A snapshot, at the journal's last record, of an exchange whose ledger has that many transfers."""
    ledger, draw, number = exchange.state.ledger, random.Random(3), 0
    names = ["world", *(f"wallet:m{one}" for one in range(WALLETS))]
    while len(ledger) < transfers:
        n = min(MAX_BATCH, transfers - len(ledger))
        ids = [f"s-{one}" for one in range(number, number + n)]
        number += n
        amounts = [draw.randrange(1, 10**9) for _ in ids]
        ledger.book(TransferBatch(names, ids, bytes(n), [0] * n, draw.choices(range(1, WALLETS + 1), k=n), amounts), exchange.now_ms)
    walk = Walk(journal)
    *_, place = (walk.place(record) for record in walk)
    keep(Recollection(exchange, place=place, at_ms=exchange.now_ms), snapshots)


if __name__ == "__main__":
    sys.exit(main())
