"""Placement: which pools may see a request, decided before a strategy runs and held by a wrapper around each pool."""
