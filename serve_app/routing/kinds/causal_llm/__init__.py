"""RouteLLM's causal LLM router."""
