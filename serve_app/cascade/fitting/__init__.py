"""Fitting chains to recorded answers."""
