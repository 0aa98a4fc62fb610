"""Routers: estimators of the strong win rate, and the strategy that decides with them."""
