"""Fitted ensembles on recorded answers of real models: quality against strong calls and cost."""
