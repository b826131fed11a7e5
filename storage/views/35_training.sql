-- kept_rounds: the newest commit of every round of a job. A round that was lost with every machine is committed again, and
-- so are those after it.
CREATE OR REPLACE VIEW kept_rounds AS
SELECT * FROM rounds
QUALIFY coalesce(round < min(round) OVER (
  PARTITION BY job ORDER BY record, ordinal ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
), true);

-- round_work: what each member gave to a kept round; its two times are those since its round before.
CREATE OR REPLACE VIEW round_work AS
SELECT w.* FROM (
  SELECT job, round, record, ordinal, lease, provider, slot, loss, steps, tokens,
    (leased_ms - coalesce(lag(leased_ms) OVER one, 0))::BIGINT AS leased_ms,
    (trained_ms - coalesce(lag(trained_ms) OVER one, 0))::BIGINT AS trained_ms,
    coalesce(sent_bytes, 0)::BIGINT AS sent_bytes, coalesce(received_bytes, 0)::BIGINT AS received_bytes,
    coalesce(stall_ms, 0)::BIGINT AS stall_ms
  FROM round_members
  WINDOW one AS (PARTITION BY lease ORDER BY record, ordinal)
) w
SEMI JOIN kept_rounds k ON k.record = w.record AND k.ordinal = w.ordinal;

-- round_totals: one line per kept round. goodput = trained / leased worker-milliseconds of its members.
CREATE OR REPLACE VIEW round_totals AS
SELECT k.job, k.round, k.step, k.at_ms, k.duration_ms, coalesce(k.strategy, '') AS strategy,
  coalesce(k.tuning, 0)::BIGINT AS tuning, coalesce(k.attempts, 1)::BIGINT AS attempts,
  coalesce(json_array_length(k.late_json), 0)::BIGINT AS late,
  coalesce(json_array_length(k.warned_json), 0)::BIGINT AS warned,
  w.members, w.tokens, w.tokens * 1000.0 / nullif(k.duration_ms, 0) AS tokens_per_s, w.loss,
  w.leased_ms, w.trained_ms, w.trained_ms / nullif(w.leased_ms, 0) AS goodput,
  w.sent_bytes, w.received_bytes, w.stall_ms, e.loss AS held_out_loss
FROM kept_rounds k
JOIN (
  SELECT record, ordinal, count(*)::BIGINT AS members, sum(tokens)::BIGINT AS tokens, avg(loss) AS loss,
    sum(leased_ms)::BIGINT AS leased_ms, sum(trained_ms)::BIGINT AS trained_ms, sum(sent_bytes)::BIGINT AS sent_bytes,
    sum(received_bytes)::BIGINT AS received_bytes, sum(stall_ms)::BIGINT AS stall_ms
  FROM round_work GROUP BY record, ordinal
) w ON w.record = k.record AND w.ordinal = k.ordinal
LEFT JOIN (SELECT job, round, arg_max(loss, (record, ordinal)) AS loss FROM evaluations GROUP BY job, round) e
  ON e.job = k.job AND e.round = k.round;

-- metric_lines: the workload's own figures of held-out data, one line each, as the newest evaluation of a kept round has them.
CREATE OR REPLACE VIEW metric_lines AS
SELECT m.job, j.customer, m.round, k.step, m.at_ms, m.name, m.value
FROM evaluation_metrics m
SEMI JOIN (
  SELECT record, ordinal FROM evaluations
  QUALIFY row_number() OVER (PARTITION BY job, round ORDER BY record DESC, ordinal DESC) = 1
) e ON e.record = m.record AND e.ordinal = m.ordinal
JOIN kept_rounds k ON k.job = m.job AND k.round = m.round
LEFT JOIN jobs j ON j.job = m.job;

-- worker_totals: one line per lease that took part in a kept round.
CREATE OR REPLACE VIEW worker_totals AS
SELECT job, lease, provider, slot, count(*)::BIGINT AS rounds, sum(tokens)::BIGINT AS tokens,
  sum(sent_bytes)::BIGINT AS sent_bytes, sum(received_bytes)::BIGINT AS received_bytes, sum(stall_ms)::BIGINT AS stall_ms,
  sum(leased_ms)::BIGINT AS leased_ms, sum(trained_ms)::BIGINT AS trained_ms
FROM round_work GROUP BY job, lease, provider, slot;

-- training_lines: one line per job. goodput = trained worker-milliseconds in kept rounds / leased ones of every lease.
CREATE OR REPLACE VIEW training_lines AS
SELECT t.job, t.rounds, t.tokens, t.tokens * 1000.0 / nullif(t.duration_ms, 0) AS tokens_per_s, t.sent_bytes,
  t.received_bytes, t.stall_ms, t.retries, t.late, t.trained_ms, l.leased_ms, t.trained_ms / nullif(l.leased_ms, 0) AS goodput
FROM (
  SELECT job, count(*)::BIGINT AS rounds, sum(tokens)::BIGINT AS tokens, sum(duration_ms)::BIGINT AS duration_ms,
    sum(sent_bytes)::BIGINT AS sent_bytes, sum(received_bytes)::BIGINT AS received_bytes,
    sum(stall_ms)::BIGINT AS stall_ms, sum(attempts - 1)::BIGINT AS retries, sum(late)::BIGINT AS late,
    sum(trained_ms)::BIGINT AS trained_ms
  FROM round_totals GROUP BY job
) t
LEFT JOIN (SELECT job, sum(metered_ms)::BIGINT AS leased_ms FROM lease_lines GROUP BY job) l USING (job);
