"""The market's processes: the exchange behind its HTTP API, and the books."""
