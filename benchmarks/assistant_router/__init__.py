"""The router of the profile `assistant`: what SmolLM2 and a recorded strong model get right, and what is learned."""
