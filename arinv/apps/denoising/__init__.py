"""Denoising: training of decoders, evaluation on sets of pictures, photographs of any size."""
