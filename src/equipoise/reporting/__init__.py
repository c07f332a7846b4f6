"""A report for people: data first, then one self-contained page."""
