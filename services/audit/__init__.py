"""The ledger: who did what, kept as it was told, numbered without a gap and hash-chained."""
