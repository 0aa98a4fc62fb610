"""Pools: the caller's side of engines of one kind."""
