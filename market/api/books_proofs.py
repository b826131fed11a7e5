"""Proofs that the books process makes: events of the market's log with what proves each of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from storage.billing import invoice
from storage.invoice_bundles import invoice_proof
from storage.job_events import billed_events, provenance_events
from storage.projection import Projection
from storage.provenance_bundles import provenance_proof
from storage.tenants import QueryRefused, Tenant
from storage.transparency import LogIndex, ShownRecord

TRUSTED = ("operator", "plane")
Json = dict[str, Any]
Answer = Callable[[Json, Tenant], Json | QueryRefused]


class Proofs:
    """Questions to the log, by the projection's lists of what belongs together."""

    def __init__(self, projection: Projection, log_index: LogIndex) -> None:
        self.projection = projection
        self.log_index = log_index

    def by_name(self) -> Mapping[str, Answer]:
        """The questions by their names."""
        return {"invoice_proof": self._invoice_proof, "provenance_proof": self._provenance_proof, "log": self._log}

    def _invoice_proof(self, params: Json, tenant: Tenant) -> Json | QueryRefused:
        """The invoice of a job with every event behind it, and the log's size and root that it is proven in."""
        job = str(params.get("job"))
        with self.projection.cursor() as cursor:
            cursor.begin()  # one moment of the books for the invoice and the list of its events
            said = invoice(cursor, tenant, job)
            if isinstance(said, QueryRefused):
                return said
            if "payments" not in said:
                return QueryRefused("not_the_customer", f"{job} is not your job", "job", "its customer can ask for that")
            records = cursor.execute("SELECT max(records) FROM watermarks").fetchall()[0][0]
            events = billed_events(cursor, job)
        return {**invoice_proof(said, self._shown(events, records)), **self._root(records)}

    def _provenance_proof(self, params: Json, tenant: Tenant) -> Json | QueryRefused:
        """Every event behind a job's segments, the statements made of them, and the log's size and root.

        A provider sees no more of a job than its own leases.
        """
        job = str(params.get("job"))
        with self.projection.cursor() as cursor:
            cursor.begin()
            found = cursor.execute("SELECT customer FROM jobs WHERE job = ?", [job]).fetchall()
            if not found or not (tenant.role in TRUSTED or found[0][0] == tenant.member):
                return QueryRefused("job_unknown", f"there is no job {job} among yours", "job", "see your jobs: torg jobs")
            records = cursor.execute("SELECT max(records) FROM watermarks").fetchall()[0][0]
            events = provenance_events(cursor, job)
        proof = provenance_proof(str(params.get("market")), job, self._shown(events, records))
        return {**proof, **self._root(records)}

    def _shown(self, events: Sequence[tuple[int, Sequence[int]]], records: int) -> list[ShownRecord]:
        self.log_index.catch_up()
        return [self.log_index.show(record, ordinals, records) for record, ordinals in events]

    def _root(self, records: int) -> Json:
        return {"size": records, "root": self.log_index.root(records).hex()}

    def _log(self, params: Json, _: Tenant) -> Json | QueryRefused:
        """Size and root of the log, and with `old` (and `new`) the proof that it only grew since; `paths`: the same by size
        for each of `sizes` that the log has."""
        self.log_index.catch_up()
        size = len(self.log_index)
        new, old = params.get("new", size), params.get("old")
        if not (isinstance(new, int) and 0 <= new <= size):
            return QueryRefused("size_unknown", f"the log has {size} records, not {new}", "new", "ask for an earlier size")
        answer: Json = {"size": new, "root": self.log_index.root(new).hex()}
        if old is not None:
            if not (isinstance(old, int) and 0 < old <= new):
                return QueryRefused("size_unknown", f"old is a size from 1 to {new}, not {old}", "old", "ask for a smaller one")
            answer |= {"old": old, "path": self._path(old, new)}
        sizes = [one for one in params.get("sizes", []) if 0 < one <= new]
        return answer | {"paths": {str(one): self._path(one, new) for one in sizes}}

    def _path(self, old: int, new: int) -> list[str]:
        return [one.hex() for one in self.log_index.consistency(old, new)]
