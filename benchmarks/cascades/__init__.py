"""Cascades, routing and cascade routing on recorded answers of real models: fitted on train, reported on test."""
