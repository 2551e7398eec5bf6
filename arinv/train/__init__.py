"""Training: a module for each kind of network, the loop around their steps, optimisers, speed and operations."""
