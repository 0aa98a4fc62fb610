"""The HTTP API that callers see."""
