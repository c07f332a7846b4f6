"""The online loop's decisions: when a new plan is worth its moves, and the state that survives a restart."""
