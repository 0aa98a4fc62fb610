"""The complexity router."""
