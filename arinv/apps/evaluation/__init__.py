"""Evaluation of trained networks: accuracy, robustness by PGD and AutoAttack, quality of reconstructions.

The algorithms are in `arinv.metrics` and `arinv.attacks`; a network is evaluated by `Trained.evaluate` or by a task.
"""
