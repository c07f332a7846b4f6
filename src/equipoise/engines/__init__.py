"""What is particular to each serving engine: its rules, and what it would ignore."""
