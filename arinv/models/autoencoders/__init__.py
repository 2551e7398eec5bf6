"""Autoencoders: an encoder to a vector and a decoder from it."""
