"""Applications: algorithms over callables (`features_fn`, `decode_fn`), whatever networks stand behind them."""

from arinv.apps import style

__all__ = ["style"]
