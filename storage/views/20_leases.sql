-- lease_readings: the growth of every lease's meters, one row per reading. Readings are cumulative; a lease's end
-- carries the last one of its leased time.
CREATE OR REPLACE VIEW lease_readings AS
SELECT lease, record, ordinal, at_ms,
  (leased_ms - coalesce(lag(leased_ms) OVER one, 0))::BIGINT AS leased_ms,
  (trained_ms - coalesce(lag(trained_ms) OVER one, 0))::BIGINT AS trained_ms,
  (rounds - coalesce(lag(rounds) OVER one, 0))::BIGINT AS rounds,
  (tokens - coalesce(lag(tokens) OVER one, 0))::BIGINT AS tokens
FROM (
  SELECT lease, record, ordinal, at_ms, leased_ms, trained_ms, rounds, tokens FROM lease_meters
  UNION ALL
  SELECT e.lease, e.record, e.ordinal, e.at_ms, e.metered_ms, coalesce(m.trained_ms, 0), coalesce(m.rounds, 0),
    coalesce(m.tokens, 0)
  FROM lease_ends e
  LEFT JOIN (
    SELECT lease, max(trained_ms) AS trained_ms, max(rounds) AS rounds, max(tokens) AS tokens
    FROM lease_meters GROUP BY lease
  ) m USING (lease)
)
WINDOW one AS (PARTITION BY lease ORDER BY record, ordinal);

-- refunds: what was metered and not charged of every lease that has ended, by the same rounding as charges:
-- charge(metered) - charge(charged), each price * gpus * ms // 3 600 000. A lease may be charged after its end, when
-- its last committed rounds become durable; the refund stands at the time of the end and counts those charges.
CREATE OR REPLACE VIEW refunds AS
SELECT lease, record, ordinal, at_ms, (metered_ms - charged_ms)::BIGINT AS refunded_ms,
  ((rate * metered_ms) // 3600000 - (rate * charged_ms) // 3600000)::BIGINT AS refunded_nanos
FROM (
  SELECT e.lease, e.record, e.ordinal, e.at_ms, e.metered_ms, coalesce(c.charged_ms, 0) AS charged_ms,
    l.price_nanos_per_gpu_hour::HUGEINT * l.gpus AS rate
  FROM lease_ends e
  JOIN leases l USING (lease)
  LEFT JOIN (SELECT lease, max(to_ms) AS charged_ms FROM lease_charges GROUP BY lease) c USING (lease)
);

-- charges_by_kind: every charge, and what of it was paid with granted credits, of which a job's go first.
CREATE OR REPLACE VIEW charges_by_kind AS
SELECT lease, job, at_ms, amount_nanos, fee_nanos,
  (least(granted, billed) - least(granted, billed - amount_nanos))::BIGINT AS granted_nanos
FROM (
  SELECT c.*, coalesce(g.granted, 0) AS granted,
    sum(c.amount_nanos) OVER (PARTITION BY c.job ORDER BY c.record, c.ordinal) AS billed
  FROM lease_charges c
  LEFT JOIN (
    SELECT job, sum(amount_nanos) AS granted FROM transfers WHERE kind = 'hold' AND debit LIKE 'credit:%' GROUP BY job
  ) g ON g.job = c.job
);

-- note_moves: what disputes and corrections made of what leases were charged, and what of it went back to granted credits.
CREATE OR REPLACE VIEW note_moves AS
SELECT lease, at_ms, CASE WHEN kind = 'award' THEN 0 ELSE amount_nanos END AS credited_nanos,
  CASE WHEN kind <> 'award' AND credit LIKE 'credit:%' THEN amount_nanos ELSE 0 END AS credited_granted_nanos,
  CASE WHEN kind = 'award' THEN amount_nanos ELSE 0 END AS debited_nanos
FROM transfers WHERE kind IN ('refund', 'correction', 'award') AND lease IS NOT NULL;

-- billing_facts: everything that a bill is made of, each at its time: readings, charges, refunds, notes. Any grouping of
-- these rows adds up to the same sums.
CREATE OR REPLACE VIEW billing_facts AS
SELECT f.at_ms, f.at_ms - f.leased_ms AS from_ms, l.job, l.customer, l.provider, l.lease, l.gpu, l.gpus,
  l.price_nanos_per_gpu_hour, j.tags_json,
  f.leased_ms * l.gpus AS gpu_ms, f.trained_ms, f.rounds, f.tokens, f.charged_nanos, f.fee_nanos, f.refunded_nanos,
  f.granted_nanos, f.credited_nanos, f.credited_granted_nanos, f.debited_nanos
FROM (
  SELECT lease, at_ms, leased_ms, trained_ms, rounds, tokens, 0::BIGINT AS charged_nanos, 0::BIGINT AS fee_nanos,
    0::BIGINT AS refunded_nanos, 0::BIGINT AS granted_nanos, 0::BIGINT AS credited_nanos,
    0::BIGINT AS credited_granted_nanos, 0::BIGINT AS debited_nanos
  FROM lease_readings
  UNION ALL
  SELECT lease, at_ms, 0, 0, 0, 0, amount_nanos, fee_nanos, 0, granted_nanos, 0, 0, 0 FROM charges_by_kind
  UNION ALL
  SELECT lease, at_ms, 0, 0, 0, 0, 0, 0, refunded_nanos, 0, 0, 0, 0 FROM refunds
  UNION ALL
  SELECT lease, at_ms, 0, 0, 0, 0, 0, 0, 0, 0, credited_nanos, credited_granted_nanos, debited_nanos FROM note_moves
) f
JOIN leases l USING (lease)
LEFT JOIN jobs j ON j.job = l.job;

-- lease_lines: one line per lease, as an invoice shows it.
CREATE OR REPLACE VIEW lease_lines AS
SELECT l.lease, l.epoch, l.slot, l.job, l.customer, l.offer, l.provider, l.gpu, l.gpus, l.price_nanos_per_gpu_hour,
  l.replaces, l.region, l.ask_nanos_per_gpu_hour, l.clearing, l.price_rule, l.at_ms AS granted_at_ms, s.started_at_ms, e.at_ms AS ended_at_ms, e.reason AS end_reason, e.fault,
  coalesce(r.leased_ms, 0)::BIGINT AS metered_ms, coalesce(c.charged_ms, 0)::BIGINT AS charged_ms,
  coalesce(r.trained_ms, 0)::BIGINT AS trained_ms, coalesce(r.rounds, 0)::BIGINT AS rounds,
  coalesce(r.tokens, 0)::BIGINT AS tokens, coalesce(c.charged_nanos, 0)::BIGINT AS charged_nanos,
  coalesce(c.fee_nanos, 0)::BIGINT AS fee_nanos, coalesce(f.refunded_ms, 0)::BIGINT AS refunded_ms,
  coalesce(f.refunded_nanos, 0)::BIGINT AS refunded_nanos, g.signed_ms,
  greatest(0, coalesce(q.claimed_ms, 0) - coalesce(r.leased_ms, 0))::BIGINT AS questioned_ms
FROM leases l
LEFT JOIN (SELECT lease, max(leased_ms) AS signed_ms FROM meter_signatures GROUP BY lease) g USING (lease)
LEFT JOIN (SELECT lease, max(claimed_ms) AS claimed_ms FROM lease_meters GROUP BY lease) q USING (lease)
LEFT JOIN (SELECT lease, min(at_ms) AS started_at_ms FROM lease_starts GROUP BY lease) s USING (lease)
LEFT JOIN lease_ends e USING (lease)
LEFT JOIN (
  SELECT lease, sum(leased_ms) AS leased_ms, sum(trained_ms) AS trained_ms, sum(rounds) AS rounds, sum(tokens) AS tokens
  FROM lease_readings GROUP BY lease
) r USING (lease)
LEFT JOIN (
  SELECT lease, max(to_ms) AS charged_ms, sum(amount_nanos) AS charged_nanos, sum(fee_nanos) AS fee_nanos
  FROM lease_charges GROUP BY lease
) c USING (lease)
LEFT JOIN refunds f USING (lease);
