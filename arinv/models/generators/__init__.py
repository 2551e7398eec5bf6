"""Generators that invert features, published or mirrored, their discriminator, and the denoiser's wavelet networks."""
