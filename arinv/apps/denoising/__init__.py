"""Denoising of images of any size, in tiles where they are large, by an encoder and its wavelet decoder.

`denoise` takes the network as a callable, such as `arinv.load(workdir).denoise_fn`; training and evaluation on image
sets are tasks. Source: Rojas-Gomez et al. 2022, section 5.3.
"""

from arinv.apps.denoising.tiles import DenoiseFn, denoise

__all__ = ["DenoiseFn", "denoise"]
