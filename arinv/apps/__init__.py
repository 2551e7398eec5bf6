"""Applications: algorithms over callables (`features_fn`, `decode_fn`), whatever networks stand behind them."""

from arinv.apps import anomaly, denoising, inversion, representation_inversion, style

__all__ = ["anomaly", "denoising", "inversion", "representation_inversion", "style"]
