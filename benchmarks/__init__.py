"""Benchmarks, each a command: `python -m benchmarks.gateway`, load, chaos, engine. Serving code imports none of it."""
