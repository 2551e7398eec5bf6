"""Applications: algorithms over callables (`features_fn`, `decode_fn`), whatever networks stand behind them."""

from arinv.apps import denoising, inversion, representation_inversion

__all__ = ["denoising", "inversion", "representation_inversion"]
