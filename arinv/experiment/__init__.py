"""Experiments: working directories, checkpoints, trained networks, cached results, reports and figures."""
