"""Which events of the journal a job's bill and its provenance are made of, by the books' tables."""

from collections.abc import Sequence

import duckdb

# Of a lease's meters the last reading says it all.
_QUERY = """
WITH own AS (SELECT lease FROM leases WHERE job = $job)
SELECT record, ordinal FROM (
  SELECT record, ordinal FROM jobs WHERE job = $job
  UNION ALL SELECT record, ordinal FROM job_states WHERE job = $job
  UNION ALL SELECT record, ordinal FROM transfers WHERE job = $job
  UNION ALL SELECT record, ordinal FROM leases WHERE job = $job
  UNION ALL SELECT record, ordinal FROM dispute_openings WHERE job = $job
  UNION ALL SELECT record, ordinal FROM dispute_closings WHERE job = $job
  UNION ALL SELECT record, ordinal FROM lease_charges WHERE job = $job
  UNION ALL SELECT record, ordinal FROM lease_ends WHERE job = $job
  UNION ALL SELECT record, ordinal FROM lease_starts WHERE lease IN (SELECT lease FROM own)
  UNION ALL SELECT max((record, ordinal))[1], max((record, ordinal))[2] FROM meter_signatures WHERE job = $job GROUP BY lease
  UNION ALL SELECT max((record, ordinal))[1], max((record, ordinal))[2] FROM lease_meters WHERE job = $job GROUP BY lease
)
ORDER BY record, ordinal
"""


_PROVENANCE_TABLES = (
    "jobs", "job_states", "tunings", "transfers", "leases", "lease_charges", "rounds", "round_signatures", "evaluations", "checkpoints", "statements",
    "job_results", "dispute_openings", "dispute_closings",
)  # fmt: skip
_PROVENANCE = (
    "SELECT record, ordinal FROM ("
    + " UNION ALL ".join(f"SELECT record, ordinal FROM {table} WHERE job = $job" for table in _PROVENANCE_TABLES)
    + " UNION ALL SELECT record, ordinal FROM lease_starts WHERE lease IN (SELECT lease FROM leases WHERE job = $job))"
    + " ORDER BY record, ordinal"
)


def billed_events(connection: duckdb.DuckDBPyConnection, job: str) -> list[tuple[int, Sequence[int]]]:
    """(record, ordinals) of the job's events as far as the books are, in the journal's order."""
    return _by_record(connection, _QUERY, job)


def provenance_events(connection: duckdb.DuckDBPyConnection, job: str) -> list[tuple[int, Sequence[int]]]:
    """The same of the events that say what a job was, who worked on it with what, what came of it and what it cost."""
    return _by_record(connection, _PROVENANCE, job)


def _by_record(connection: duckdb.DuckDBPyConnection, query: str, job: str) -> list[tuple[int, Sequence[int]]]:
    found: dict[int, list[int]] = {}
    for record, ordinal in connection.execute(query, {"job": job}).fetchall():
        found.setdefault(record, []).append(ordinal)
    return list(found.items())
