"""Routers on recorded answers of real models: cross-validated, beside RouteLLM's published figures."""
