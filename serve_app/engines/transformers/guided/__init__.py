"""Constrained decoding: an answer that follows a JSON schema, a pattern, a grammar, or calls tools, by construction."""
