"""Dashboards: the files of the package, and Grafana over its HTTP API."""
