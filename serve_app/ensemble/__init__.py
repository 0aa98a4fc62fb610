"""Ensembles: several candidate answers to one query, a vote or a ranker that picks one, a fuser that improves on it."""
