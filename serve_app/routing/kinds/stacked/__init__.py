"""The stacked router."""
