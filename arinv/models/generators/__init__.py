"""Mirror generators, the discriminator, and the wavelet networks of the denoiser."""
