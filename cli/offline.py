"""What the files still say when the market is down (needs the node extra: duckdb)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from cli.errors import CliError, refused
from cli.settings import Settings

Answer = TypeVar("Answer")


def when_down(settings: Settings, online: Callable[[], Answer], from_files: Callable[[Files], Answer]) -> Answer:
    """Ask the market; where none answers and its files are here, ask the files.

    A market that was named by URL is never answered for by the files of this home.
    """
    from market.wire import MarketUnreachable

    try:
        return online()
    except (MarketUnreachable, CliError) as away:
        if isinstance(away, CliError) and away.code != "market_unreachable":
            raise
        if settings.url or not (settings.home / "journal").is_dir():
            raise
        with journal_readable():
            return from_files(Files(readable_home(settings.home)))


@contextmanager
def journal_readable() -> Iterator[None]:
    """Says plainly where a part of the journal is that is asked for and does not answer, or is damaged."""
    from storage.journal_format import JournalAway, JournalCorrupt

    try:
        yield
    except JournalAway as error:
        raise refused("archive_away", str(error), remedy="mount it, or see that the bucket can be reached") from error
    except JournalCorrupt as error:
        raise refused("journal_corrupt", str(error), remedy="torg books verify says what of it is whole") from error


def readable_home(home: Path) -> Path:
    """The home, if this torg reads its format."""
    from storage.formats import FormatDamaged, FormatNewer, check_home

    try:
        check_home(home)
    except FormatNewer as newer:
        raise refused("home_newer", newer.message, field="--home", remedy=newer.remedy) from newer
    except FormatDamaged as damaged:
        raise refused("home_damaged", str(damaged), field="--home") from damaged
    return home


@dataclass(frozen=True, slots=True)
class Files:
    """A market's home, read without its market. The local accounts are named as their roles."""

    home: Path

    def billing(
        self, role: str, *, by: str | None, since_ms: int | None, until_ms: int | None, job: str | None
    ) -> list[dict[str, Any]]:
        """The lines that GET /v1/billing answers."""
        from storage.billing import DEFAULT_BY, billing
        from storage.tenants import QueryRefused, Tenant

        groups = DEFAULT_BY if by is None else tuple(by.split(","))
        tenant = Tenant(role, role)
        found = self._ask(lambda books: billing(books, tenant, by=groups, since_ms=since_ms, until_ms=until_ms, job=job))
        if isinstance(found, QueryRefused):
            raise refused(found.code, found.message, field=found.field, remedy=found.remedy)
        return found

    def prices(
        self, *, gpu: str | None, region: str | None, since_ms: int | None, until_ms: int | None, points: int
    ) -> dict[str, Any]:
        """What GET /v1/prices answers; what stood open when the market went down counts until then."""
        _need_duckdb()
        from storage.prices import last_ms, prices

        def ask(books: Any) -> dict[str, Any]:
            ended_ms = last_ms(books)
            until = ended_ms if until_ms is None else min(until_ms, ended_ms)
            return prices(books, gpu=gpu, region=region, since_ms=since_ms, until_ms=until, points=points)

        return self._ask(ask)

    def invoice(self, role: str, job: str) -> dict[str, Any]:
        """What GET /v1/invoices/{job} answers."""
        from storage.billing import invoice
        from storage.tenants import QueryRefused, Tenant

        found = self._ask(lambda books: invoice(books, Tenant(role, role), job))
        if isinstance(found, QueryRefused):
            raise refused(found.code, found.message, field=found.field, remedy=found.remedy)
        return found

    def sql(self, statement: str, role: str) -> dict[str, Any]:
        """What POST /v1/sql answers."""
        _need_duckdb()
        from storage.tenant_sql import tenant_sql
        from storage.tenants import QueryRefused, Tenant

        found = self._ask(lambda books: tenant_sql(books, Tenant(role, role), statement))
        if isinstance(found, QueryRefused):
            raise refused(found.code, found.message, field=found.field, remedy=found.remedy)
        return found

    def verify(self) -> dict[str, Any]:
        """What GET /v1/books/verify answers."""
        _need_duckdb()
        from market.homes import Home
        from storage.journal import verify_journal
        from storage.projection import Projection, ProjectionNewer, is_balanced, projection_equal

        home = Home(self.home)
        checked = verify_journal(home.journal)
        answer: dict[str, Any] = {"ok": False, "records": checked.records, "head": checked.head,
                                  "first_bad": checked.first_bad, "balanced": False, "projection_ok": False}  # fmt: skip
        if checked.ok:
            try:
                opened = Projection.open(home.journal, home.books_database)
            except ProjectionNewer as newer:
                raise refused("books_newer", str(newer)) from newer
            with opened as projection:
                answer["projection_ok"], answer["detail"] = projection_equal(projection)
                if answer["projection_ok"]:
                    with projection.cursor() as books:
                        answer["balanced"] = is_balanced(books)
            answer["ok"] = answer["balanced"] and answer["projection_ok"]
        return answer

    def _ask(self, question: Callable[[Any], Answer]) -> Answer:
        _need_duckdb()
        from market.homes import Home
        from storage.offline import ask_offline

        home = Home(self.home)
        return ask_offline(home.journal, home.books_database, question)


def _need_duckdb() -> None:
    if find_spec("duckdb") is None:
        message = "the market is down, and reading its files needs duckdb"
        raise CliError("extra_missing", message, None, "pip install 'torg[node]'")
