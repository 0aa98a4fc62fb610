"""RouteLLM's matrix factorization router."""
