"""Training, comparing, evaluating and refreshing routers."""
