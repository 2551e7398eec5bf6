"""Plans of trainings: memory, operations, collectives and time, without running them."""
