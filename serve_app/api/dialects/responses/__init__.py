"""OpenAI's Responses API: its requests as Queries, its answers and events, and its store of earlier answers."""
