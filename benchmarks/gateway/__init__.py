"""What the gateway costs, beside the LiteLLM proxy and beside bare uvicorn, in one run."""
