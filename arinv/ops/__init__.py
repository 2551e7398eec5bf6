"""Pure jnp functions: the bottom layer, knowing nothing of models or data sets."""
