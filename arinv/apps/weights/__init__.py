"""Import and export of PyTorch weights, as tasks; `arinv.models.load_torch` is the function behind the import."""
