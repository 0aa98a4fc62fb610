"""Cascades in service: run, stages, relay."""
