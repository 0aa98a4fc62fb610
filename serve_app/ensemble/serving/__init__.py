"""Serving of ensemble plans over pools."""
