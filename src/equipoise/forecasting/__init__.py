"""From past windows to the load to plan for."""
