"""Mirror generators, the discriminator of their training, and the wavelet networks of the denoiser."""
