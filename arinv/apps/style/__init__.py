"""Style transfer at several levels of features: whitening and coloring between an encoder and its inverters.

Images are float32 [B, H, W, 3] in [0, 1]; a level is an encoder's layer with the generator that inverts it, as the
callables of `Level`. Source: Li et al. 2017; Rojas-Gomez et al. 2022, section 3.3.
"""

from arinv.apps.style.transfer import ORDERS, Level, StyleCode, encode_style, stylize, stylize_with

__all__ = ["ORDERS", "Level", "StyleCode", "encode_style", "stylize", "stylize_with"]
