-- job_lines: one line per job: who, what state now, how far, and its money.
CREATE OR REPLACE VIEW job_lines AS
SELECT j.job, j.customer, j.name, j.at_ms AS submitted_at_ms, s.state, s.reason, s.state_at_ms, j.spec_json, j.tags_json,
  coalesce(b.budget_nanos, j.budget_nanos) AS budget_nanos, coalesce(r.rounds, 0)::BIGINT AS rounds_committed,
  coalesce(m.billed_nanos, 0)::BIGINT AS billed_nanos, coalesce(m.fee_nanos, 0)::BIGINT AS fee_nanos,
  coalesce(m.held_nanos, 0)::BIGINT AS held_nanos, coalesce(m.released_nanos, 0)::BIGINT AS released_nanos,
  (coalesce(m.held_nanos, 0) - coalesce(m.billed_nanos, 0) - coalesce(m.released_nanos, 0) - coalesce(m.awarded_nanos, 0))::BIGINT AS escrow_nanos
FROM jobs j
LEFT JOIN (
  SELECT job, arg_max(state, (record, ordinal)) AS state, arg_max(reason, (record, ordinal)) AS reason,
    arg_max(at_ms, (record, ordinal)) AS state_at_ms
  FROM job_states GROUP BY job
) s USING (job)
LEFT JOIN (SELECT job, arg_max(budget_nanos, (record, ordinal)) AS budget_nanos FROM job_budgets GROUP BY job) b
  USING (job)
LEFT JOIN (SELECT job, arg_max(round, (record, ordinal)) AS rounds FROM rounds GROUP BY job) r USING (job)
LEFT JOIN (
  SELECT job,
    sum(amount_nanos) FILTER (kind IN ('charge', 'fee')) AS billed_nanos,
    sum(amount_nanos) FILTER (kind = 'fee') AS fee_nanos,
    sum(amount_nanos) FILTER (kind = 'award') AS awarded_nanos,
    sum(amount_nanos) FILTER (kind = 'hold') AS held_nanos,
    sum(amount_nanos) FILTER (kind = 'release') AS released_nanos
  FROM transfers GROUP BY job
) m USING (job);

-- round_lines: who did what in every committed round.
CREATE OR REPLACE VIEW round_lines AS
SELECT m.job, m.round, m.step, m.at_ms, r.duration_ms, r.reason, m.lease, l.customer, m.provider, m.slot, m.loss,
  m.steps, m.tokens, m.leased_ms, m.trained_ms, m.bytes, m.contribution, e.loss AS held_out_loss,
  coalesce(r.strategy, '') AS strategy, coalesce(m.sent_bytes, 0)::BIGINT AS sent_bytes,
  coalesce(m.received_bytes, 0)::BIGINT AS received_bytes, coalesce(m.stall_ms, 0)::BIGINT AS stall_ms
FROM round_members m
JOIN rounds r ON r.record = m.record AND r.ordinal = m.ordinal
LEFT JOIN leases l USING (lease)
LEFT JOIN (SELECT job, round, arg_max(loss, (record, ordinal)) AS loss FROM evaluations GROUP BY job, round) e
  ON e.job = m.job AND e.round = m.round;

-- attempt_lines: every try of a batch job's command that ended by itself. A try that was lost is a lease that is over.
CREATE OR REPLACE VIEW attempt_lines AS
SELECT a.job, a.number, a.at_ms, a.lease, l.customer, l.provider, a.kind, a.code, a.signal, a.duration_ms, a.detail,
  a.manifest
FROM attempts a
LEFT JOIN leases l USING (lease);

-- estimate_lines: what was told of a job at submit, and how that came true. What it took counts from its first lease to its
-- end; it is NULL until the job is done.
CREATE OR REPLACE VIEW estimate_lines AS
SELECT *, (took_ms BETWEEN low_ms AND high_ms) AS within_time, (cost_nanos BETWEEN low_nanos AND high_nanos) AS within_cost
FROM (
  SELECT e.job, e.at_ms, l.customer, e.basis, e.runs, e.gpu, e.workers, e.low_ms, e.middle_ms, e.high_ms, e.low_nanos,
    e.middle_nanos, e.high_nanos, e.widened, e.claimed, (d.at_ms - g.at_ms)::BIGINT AS took_ms,
    CASE WHEN d.at_ms IS NOT NULL THEN l.billed_nanos END AS cost_nanos
  FROM estimates e
  LEFT JOIN job_lines l USING (job)
  LEFT JOIN (SELECT job, max(at_ms) AS at_ms FROM job_states WHERE state = 'done' GROUP BY job) d USING (job)
  LEFT JOIN (SELECT job, min(at_ms) AS at_ms FROM leases GROUP BY job) g USING (job)
);
