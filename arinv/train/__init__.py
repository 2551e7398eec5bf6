"""Training: the state, pure steps, the loop around them, checkpoints and logs."""
