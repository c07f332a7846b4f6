"""Replay of a trace under policies: what holds on the windows that come next, what it costs, and where balance is lost."""
