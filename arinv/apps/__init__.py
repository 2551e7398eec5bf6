"""Applications: algorithms over callables (`features_fn`, `decode_fn`), whatever networks stand behind them."""

from arinv.apps import anomaly

__all__ = ["anomaly"]
