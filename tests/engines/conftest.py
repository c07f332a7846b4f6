"""Tests from inside an engine are run by test_engines.py, in a process of their own, which does not see this file."""

collect_ignore_glob = ["inside_*"]
