"""Cascade routing: the next model may be any, may be skipped, and the walk stops when nothing more pays."""
