"""/v1/embeddings: OpenAI's request, read as a Query whose messages are the inputs, on the same hot handler as chat."""
