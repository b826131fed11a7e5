-- entries: both sides of every transfer, signed as the account saw it. Those that were there at the last sorting lie by
-- account and time, so that one account's are found by the smallest and largest account of each block.
CREATE OR REPLACE VIEW entries AS
SELECT * FROM sorted_entries UNION ALL SELECT * FROM recent_entries;

-- balances: credits minus debits of every account that was ever touched. They add up to zero.
CREATE OR REPLACE VIEW balances AS
SELECT account, sum(amount_nanos)::BIGINT AS balance_nanos, count(*) AS entries
FROM entries GROUP BY account;

-- history: every account's entries with the balance after each.
CREATE OR REPLACE VIEW history AS
SELECT account, record, ordinal, at_ms, id, kind, amount_nanos, job, lease,
  sum(amount_nanos) OVER (PARTITION BY account ORDER BY record, ordinal)::BIGINT AS balance_nanos
FROM entries;
