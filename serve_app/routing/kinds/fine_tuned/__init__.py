"""Routers on a fine-tuned encoder: Hybrid LLM's three and RouteLLM's bert."""
