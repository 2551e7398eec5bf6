"""PyTorch checkpoints: reading their files without running what is in them, and names and layouts both ways."""
