"""Plans: memory, operations, exchanges and time of a training, without running it."""
