"""What GPU-hours were offered for and rented for: quotes and trades by model and region, from the books.

A quote is an offer at one price; it counts by its units and by how long it stood in the time that is asked about, so a
price that stood for a second weighs a second. A trade is a lease granted; it counts by its units. Prices are int
nano-dollars per GPU-hour; a percentile is a price that was asked or paid, never one in between. Whose they were is not said.
"""

from typing import Any

import duckdb

from storage.projection import fetch
from storage.units import MS_PER_DAY

DEFAULT_SINCE_MS = 7 * MS_PER_DAY
MOST_POINTS = 500
Line = dict[str, Any]

# What both kinds come to: a price, its weight, when it was new, and from when to when it counts.
_FOUND = """
  CREATE OR REPLACE TEMP TABLE found_prices AS
  SELECT 'quotes' AS kind, gpu, region, offer, gpus, price_nanos_per_gpu_hour AS price, from_ms AS new_ms, record, ordinal,
    greatest(from_ms, $since) AS from_ms, least(coalesce(to_ms, $until), $until) AS to_ms
  FROM asks WHERE from_ms <= $until AND (to_ms IS NULL OR to_ms > $since) AND {condition}
  UNION ALL
  SELECT 'trades', gpu, region, NULL, gpus, price_nanos_per_gpu_hour, at_ms, record, ordinal, at_ms, at_ms
  FROM trades WHERE at_ms BETWEEN $since AND $until AND {condition}"""
# A trade weighs its units, a quote its units times milliseconds, one at least: it may just have been placed.
_LINES = """
  WITH summed AS (
    SELECT kind, gpu, region, price, sum(gpus * (CASE kind WHEN 'trades' THEN 1 ELSE greatest(1, to_ms - from_ms) END)) AS weight,
      CASE kind WHEN 'trades' THEN count(*) ELSE count(DISTINCT offer) END AS n,
      max((record, ordinal)) AS newest, max(new_ms) AS last_ms
    FROM found_prices GROUP BY kind, gpu, region, price),
  ranked AS (
    SELECT *, sum(weight) OVER (PARTITION BY kind, gpu, region ORDER BY price) AS upto,
      sum(weight) OVER (PARTITION BY kind, gpu, region) AS whole
    FROM summed)
  SELECT gpu, region, kind, sum(n)::BIGINT AS n, min(price) AS min_nanos,
    min(price) FILTER (upto * 4 >= whole) AS p25_nanos, min(price) FILTER (upto * 2 >= whole) AS median_nanos,
    min(price) FILTER (upto * 4 >= whole * 3) AS p75_nanos, max(price) AS max_nanos,
    arg_max(price, newest) AS last_nanos, max(last_ms) AS last_ms
  FROM ranked GROUP BY gpu, region, kind ORDER BY gpu, region, kind"""
_SERIES = """
  WITH spread AS (
    SELECT *, unnest(range(((from_ms - $since) * $points) // $span,
      least($points - 1, ((greatest(from_ms, to_ms - 1) - $since) * $points) // $span) + 1)) AS place
    FROM (SELECT * REPLACE (least(from_ms, $until - 1) AS from_ms) FROM found_prices)),
  summed AS (
    SELECT kind, gpu, place, price, sum(gpus * (CASE kind WHEN 'trades' THEN 1 ELSE greatest(1,
      least(to_ms, $since + ((place + 1) * $span + $points - 1) // $points)
      - greatest(from_ms, $since + (place * $span + $points - 1) // $points)) END)) AS weight,
      CASE kind WHEN 'trades' THEN count(*) ELSE count(DISTINCT offer) END AS n
    FROM spread GROUP BY kind, gpu, place, price),
  ranked AS (
    SELECT *, sum(weight) OVER (PARTITION BY kind, gpu, place ORDER BY price) AS upto,
      sum(weight) OVER (PARTITION BY kind, gpu, place) AS whole
    FROM summed)
  SELECT gpu, kind, ($since + (place * $span + $points - 1) // $points)::BIGINT AS at_ms, sum(n)::BIGINT AS n,
    min(price) AS min_nanos, min(price) FILTER (upto * 2 >= whole) AS median_nanos, max(price) AS max_nanos
  FROM ranked GROUP BY gpu, kind, place ORDER BY gpu, kind, place"""


def prices(
    connection: duckdb.DuckDBPyConnection,
    *,
    until_ms: int,
    since_ms: int | None = None,
    gpu: str | None = None,
    region: str | None = None,
    points: int = 0,
) -> Line:
    """{since_ms, until_ms, items, series}: a line for each model, region and kind (`quotes`, `trades`), and for charts the
    medians of each model in `points` equal parts of the time, all regions together; parts without any are left out.

    Names are compared without case. `since_ms` is seven days before `until_ms` if it is not said; both are inclusive.
    """
    since_ms = max(0, until_ms - DEFAULT_SINCE_MS) if since_ms is None else min(since_ms, until_ms)
    points = max(0, min(points, MOST_POINTS, until_ms - since_ms))
    condition, given = "true", {"since": since_ms, "until": until_ms}
    for column, name in (("gpu", gpu), ("region", region)):
        if name is not None:
            condition += f" AND lower({column}) = ${column}"
            given[column] = name.lower()  # type: ignore[assignment]
    connection.execute(_FOUND.format(condition=condition), given)
    try:
        items = list(fetch(connection, _LINES, {}))
        asked = {"since": since_ms, "until": until_ms, "points": points, "span": until_ms - since_ms}
        series = list(fetch(connection, _SERIES, asked)) if points else []
    finally:
        connection.execute("DROP TABLE found_prices")
    return {"since_ms": since_ms, "until_ms": until_ms, "items": items, "series": series}


def last_ms(connection: duckdb.DuckDBPyConnection) -> int:
    """When the market's record ends, as far as prices go: what stood open then is not known to stand open now."""
    tables = ("offers", "offer_changes", "leases", "lease_ends", "lease_meters", "other_events")
    union = " UNION ALL ".join(f"SELECT max(at_ms) AS at_ms FROM {name}" for name in tables)
    return int(connection.execute(f"SELECT coalesce(max(at_ms), 0) FROM ({union})").fetchall()[0][0])
