"""From an old placement to a new one: what must move, in which order, at what price."""
