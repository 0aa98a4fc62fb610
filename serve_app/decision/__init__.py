"""Thresholds, targets, guarantees, and capacity of a decision."""
