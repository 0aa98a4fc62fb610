"""Streams whose labels are even, and the same with one common label."""
