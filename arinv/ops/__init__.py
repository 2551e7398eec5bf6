"""Pure jnp functions: the bottom layer, independent of models and datasets."""
