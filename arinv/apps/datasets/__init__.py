"""Preparation of datasets: the command `arinv resize`."""
