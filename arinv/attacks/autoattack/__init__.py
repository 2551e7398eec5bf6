"""AutoAttack: the ensemble, its saved progress, and signs that its result cannot be trusted."""
