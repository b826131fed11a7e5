-- asks: every price at which an offer stood open, from when to when (NULL: still), with its region and units as they were
-- listed. A price change, a drain, silence or a new listing ends one; what lasted no time at all is left out.
CREATE OR REPLACE VIEW asks AS
SELECT offer, gpu, region, gpus, price_nanos_per_gpu_hour, from_ms, to_ms, record, ordinal
FROM (
  SELECT offer, state, price_nanos_per_gpu_hour, at_ms AS from_ms, record, ordinal,
    lead(at_ms) OVER one AS to_ms, last_value(gpu IGNORE NULLS) OVER one AS gpu,
    last_value(region IGNORE NULLS) OVER one AS region, last_value(gpus IGNORE NULLS) OVER one AS gpus
  FROM (
    SELECT offer, record, ordinal, at_ms, 'open' AS state, price_nanos_per_gpu_hour, gpu, region, gpus FROM offers
    UNION ALL
    SELECT offer, record, ordinal, at_ms, state, price_nanos_per_gpu_hour, NULL, NULL, NULL FROM offer_changes
  )
  WINDOW one AS (PARTITION BY offer ORDER BY record, ordinal)
)
WHERE state = 'open' AND (to_ms IS NULL OR to_ms > from_ms);

-- trades: every lease granted at a price, in the region in which its offer was listed then. Nobody's name is in it; a
-- lease of an owner on a machine of its own has no price and is no trade.
CREATE OR REPLACE VIEW trades AS
SELECT l.offer, l.gpu, coalesce(o.region, '') AS region, l.gpus, l.price_nanos_per_gpu_hour, l.at_ms, l.record, l.ordinal
FROM (SELECT * FROM leases WHERE price_nanos_per_gpu_hour > 0) l
ASOF LEFT JOIN offers o ON l.offer = o.offer AND l.record >= o.record;

-- clearing_trades: what each clearing let by model and region, when, at what price, out of how many bids and offers.
CREATE OR REPLACE VIEW clearing_trades AS
SELECT t.number, t.at_ms, t.gpu, t.region, t.gpus, t.price_nanos_per_gpu_hour, t.low_nanos, t.high_nanos, c.price_rule,
  c.bids, c.offers, c.welfare_nanos, c.forgone_nanos, t.record, t.ordinal
FROM class_trades t JOIN clearings c ON t.record = c.record AND t.number = c.number;
