"""Configs: plain data (ml_collections), composed by functions; they import nothing of arinv."""
