"""The tables and figures of Rojas-Gomez et al. 2022 and of the papers that it builds on, one command each."""
