"""One layer: a read-only table of entries and the bytes behind them."""
