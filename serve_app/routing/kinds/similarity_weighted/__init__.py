"""RouteLLM's similarity-weighted ranking."""
