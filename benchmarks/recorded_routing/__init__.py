"""Routers on recorded answers of real models: cross-validated, compared with RouteLLM's published figures."""
