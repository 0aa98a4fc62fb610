"""Features, encoders, regressions, and metrics that several parts learn with."""
