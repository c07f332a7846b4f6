"""What is read from and written to disk; knows arrays and names, no value types."""
