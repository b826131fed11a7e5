"""The market in virtual time: the very same `market.exchange.Exchange`, driven by a trace of jobs, offers and churn.

Everything here is pure: traces come in as rows, figures go out as values; the same trace and seed give the same bits.
"""
