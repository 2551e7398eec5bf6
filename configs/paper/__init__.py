"""The tables and figures of Rojas-Gomez et al. 2022, one command each."""
