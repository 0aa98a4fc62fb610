"""Engines: what runs a model inside a pool replica."""
