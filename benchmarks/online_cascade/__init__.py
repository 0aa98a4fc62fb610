"""Replays a stream of labelled texts through online cascade learning and what it must beat."""
