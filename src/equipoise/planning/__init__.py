"""From a load to a placement: replica counts, packing, refining, locality, bounds."""
