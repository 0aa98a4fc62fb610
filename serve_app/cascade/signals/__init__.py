"""Confidence signals of answers, and their calibration."""
