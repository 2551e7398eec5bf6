"""Experiments: runs and their workdirs, stages, checkpoints, trained networks, cached results, reports and figures."""
