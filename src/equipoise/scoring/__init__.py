"""A fair judge for planners: run them, check them, score them."""
