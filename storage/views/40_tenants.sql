-- What a tenant's own SQL is made from (storage/tenant_sql.py filters the rows and hides a job's money from providers).
CREATE OR REPLACE VIEW tenant_jobs AS
SELECT job, customer, name, make_timestamp(submitted_at_ms * 1000) AS submitted_at, state, reason, rounds_committed,
  budget_nanos, billed_nanos, fee_nanos, escrow_nanos, spec_json AS spec, tags_json AS tags
FROM job_lines ORDER BY submitted_at_ms, job;

CREATE OR REPLACE VIEW tenant_leases AS
SELECT lease, slot, job, customer, offer, provider, gpu, gpus, price_nanos_per_gpu_hour,
  make_timestamp(granted_at_ms * 1000) AS granted_at, make_timestamp(ended_at_ms * 1000) AS ended_at, end_reason,
  fault, metered_ms, charged_ms, trained_ms, rounds, tokens, charged_nanos, fee_nanos, refunded_nanos
FROM lease_lines ORDER BY epoch;

CREATE OR REPLACE VIEW tenant_rounds AS
SELECT job, round, step, make_timestamp(at_ms * 1000) AS at, duration_ms, lease, customer, provider, slot, loss, steps,
  tokens, leased_ms, trained_ms, bytes, held_out_loss, strategy, sent_bytes, received_bytes, stall_ms
FROM round_lines ORDER BY at_ms, job, slot;

CREATE OR REPLACE VIEW tenant_metrics AS
SELECT job, round, step, make_timestamp(at_ms * 1000) AS at, customer, name, value
FROM metric_lines ORDER BY job, round, name;

CREATE OR REPLACE VIEW tenant_attempts AS
SELECT job, number, make_timestamp(at_ms * 1000) AS at, lease, customer, provider, kind, code, signal, duration_ms
FROM attempt_lines ORDER BY job, number;

CREATE OR REPLACE VIEW tenant_estimates AS
SELECT job, make_timestamp(at_ms * 1000) AS at, customer, basis, runs, gpu, workers, low_ms, middle_ms, high_ms, low_nanos,
  middle_nanos, high_nanos, widened, claimed, took_ms, cost_nanos, within_time, within_cost
FROM estimate_lines ORDER BY at_ms, job;

CREATE OR REPLACE VIEW tenant_billing AS
SELECT make_timestamp(at_ms * 1000) AS at, make_timestamp(at_ms * 1000)::DATE AS day, job, customer, provider, lease,
  gpu, gpu_ms, trained_ms, rounds, charged_nanos, fee_nanos, refunded_nanos
FROM billing_facts ORDER BY at_ms, lease;

CREATE OR REPLACE VIEW tenant_transfers AS
SELECT id, make_timestamp(at_ms * 1000) AS at, kind, debit, credit, amount_nanos, job, lease
FROM transfers ORDER BY record, ordinal;
