"""Collecting answers: pools are called, answers are graded and recorded."""
