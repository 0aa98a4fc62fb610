"""Stores: decisions and feedback, off the hot path."""
