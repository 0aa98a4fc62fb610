"""OpenAI's wire format both ways: requests, events, frames, answers."""
