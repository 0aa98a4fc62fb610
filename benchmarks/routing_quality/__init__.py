"""Routing quality through HTTP: what the router gives up against always-large, and what it saves."""
