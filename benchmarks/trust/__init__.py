"""What a neighbor, a signal, a crash or a slow caller does to an endpoint, and what other callers see of it."""
