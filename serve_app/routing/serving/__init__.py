"""Routers in service: loaded, batched, swapped, watched."""
