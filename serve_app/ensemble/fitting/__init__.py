"""Fitting of ensemble plans on recorded answers."""
