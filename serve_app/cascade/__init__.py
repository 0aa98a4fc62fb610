"""Cascades: call a weak model first, estimate the confidence in its answer, and escalate only where that pays."""
