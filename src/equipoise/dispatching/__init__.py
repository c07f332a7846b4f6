"""Splits of a batch's tokens over the replicas that a placement has."""
