"""The race track: our planner beside the peers' own, from their published wheels, on the same loads in one run."""
