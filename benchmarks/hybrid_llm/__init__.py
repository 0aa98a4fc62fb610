"""Hybrid LLM's main result in its own form, on three pairs of lab models: three routers, three gaps, two metrics."""
