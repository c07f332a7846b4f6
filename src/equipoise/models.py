"""Published models: the numbers that placements, files of engines and memory depend on."""
