"""Passes over a network (and data) that give the numbers criteria are computed from."""
