"""The compiled loops: arrays in, arrays out, no checks. Their callers check, convert and explain."""
