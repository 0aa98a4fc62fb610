"""What the gateway costs, compared with the LiteLLM proxy and bare uvicorn, in one run."""
