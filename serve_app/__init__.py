"""Jethro: one OpenAI-compatible endpoint that answers each query with the cheapest model that answers it well."""

__version__ = "0.1.0"
