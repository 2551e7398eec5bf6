"""Configs of arinv: plain data (ml_collections), one file an experiment; they import nothing of arinv."""
