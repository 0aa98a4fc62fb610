"""Cascades over HTTP: what they give up against always-large, what they save, and when their first token comes."""
