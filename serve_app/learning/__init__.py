"""Datasets, features, metrics and calibration: what routers are trained and judged with."""
