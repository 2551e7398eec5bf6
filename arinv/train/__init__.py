"""Training: a module for each kind of network, the loop around their steps, optimizers, speed and operations."""
