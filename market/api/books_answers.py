"""What the books process answers: each question is a method that takes its parameters and who asks."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from market.api.books_proofs import Proofs
from storage.billing import DEFAULT_BY, billing, invoice
from storage.journal import verify_journal
from storage.prices import prices
from storage.projection import Projection, is_balanced, projection_equal
from storage.tenant_sql import tenant_sql
from storage.tenants import QueryRefused, Tenant
from storage.transparency import LogIndex
from storage.units import TimeError, parse_instant_ms

SQL_AT_ONCE = 2
Json = dict[str, Any]
Answer = Callable[[Json, Tenant], Json | QueryRefused]


def questions(projection: Projection, log_index: LogIndex, failure: Callable[[], str | None]) -> Mapping[str, Answer]:
    """Every question by its name. failure: why the books cannot follow the journal now, or None."""
    return {**Answers(projection, failure).by_name(), **Proofs(projection, log_index).by_name()}


class Answers:
    """Questions to the projection."""

    def __init__(self, projection: Projection, failure: Callable[[], str | None]) -> None:
        self.projection = projection
        self._failure = failure
        self._sql = threading.BoundedSemaphore(SQL_AT_ONCE)

    def by_name(self) -> Mapping[str, Answer]:
        """The questions by their names."""
        return {
            "billing": self._billing,
            "invoice": self._invoice,
            "prices": self._prices,
            "sql": self._tenant_sql,
            "status": self._status,
            "verify": self._verify,
            "rebuild": self._rebuild,
            "equal": self._equal,
        }

    def _billing(self, params: Json, tenant: Tenant) -> Json | QueryRefused:
        times = _times(params)
        if isinstance(times, QueryRefused):
            return times
        by = params.get("by")
        names = by.split(",") if isinstance(by, str) and by else by or DEFAULT_BY
        with self.projection.cursor() as cursor:
            lines = billing(
                cursor,
                tenant,
                by=[str(name).strip() for name in names],
                since_ms=times["since"],
                until_ms=times["until"],
                job=params.get("job"),
            )
        return lines if isinstance(lines, QueryRefused) else {"items": lines}

    def _invoice(self, params: Json, tenant: Tenant) -> Json | QueryRefused:
        with self.projection.cursor() as cursor:
            return invoice(cursor, tenant, str(params.get("job")))

    def _prices(self, params: Json, _: Tenant) -> Json | QueryRefused:
        """The same for every member: whose an ask or a lease was is not in it."""
        times = _times(params)
        if isinstance(times, QueryRefused):
            return times
        now_ms = time.time_ns() // 1_000_000
        with self.projection.cursor() as cursor:
            return prices(
                cursor,
                until_ms=now_ms if times["until"] is None else min(now_ms, times["until"]),
                since_ms=times["since"],
                gpu=params.get("gpu"),
                region=params.get("region"),
                points=int(params.get("points", 0)),
            )

    def _tenant_sql(self, params: Json, tenant: Tenant) -> Json | QueryRefused:
        if not self._sql.acquire(timeout=2):
            return QueryRefused("sql_busy", "other statements are running just now", "sql", "ask again in a moment")
        try:
            with self.projection.cursor() as cursor:
                return tenant_sql(cursor, tenant, str(params.get("sql", "")))
        finally:
            self._sql.release()

    def _status(self, _: Json, __: Tenant) -> Json:
        books = self.projection
        return {
            "records": books.records,
            "head": books.head,
            "pid": os.getpid(),
            "rebuilds": books.rebuilds,
            "failure": self._failure(),
        }

    def _verify(self, _: Json, tenant: Tenant) -> Json | QueryRefused:
        """The journal byte by byte, the balances, and the projection against the journal."""
        if tenant.role != "operator":
            return _operators_only()
        journal = verify_journal(self.projection.journal)
        answer: Json = {
            "records": journal.records,
            "head": journal.head,
            "first_bad": journal.first_bad,
            "balanced": False,
            "projection_ok": False,
            "detail": journal.first_bad or "",
        }
        if journal.ok:
            answer["projection_ok"], answer["detail"] = projection_equal(self.projection)
        if answer["projection_ok"]:  # else nobody knows what a sum over them is worth
            with self.projection.cursor() as cursor:
                answer["balanced"] = is_balanced(cursor)
        return {"ok": journal.ok and answer["balanced"] and answer["projection_ok"], **answer}

    def _rebuild(self, _: Json, tenant: Tenant) -> Json | QueryRefused:
        if tenant.role != "operator":
            return _operators_only()
        return {"records": self.projection.rebuild()}

    def _equal(self, _: Json, tenant: Tenant) -> Json | QueryRefused:
        if tenant.role != "operator":
            return _operators_only()
        equal, detail = projection_equal(self.projection)
        return {"equal": equal, "detail": detail}


def _operators_only() -> QueryRefused:
    return QueryRefused("operators_only", "only an operator may ask that")


def _times(params: Json) -> dict[str, int | None] | QueryRefused:
    """The instants `since` and `until`, None where a question has none."""
    times: dict[str, int | None] = {}
    for name in ("since", "until"):
        try:
            times[name] = _instant(params.get(name))
        except TimeError as error:
            return QueryRefused(error.code, error.message, name)
    return times


def _instant(value: object) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, int):
        return value
    return parse_instant_ms(str(value), now_ms=time.time_ns() // 1_000_000)
