"""Pure jnp functions, and SIFT on the host: the bottom layer, independent of models and datasets."""
