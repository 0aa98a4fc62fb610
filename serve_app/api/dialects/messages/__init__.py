"""Anthropic's Messages API over the same Query and events: requests, answers, streams, errors, counts of tokens."""
