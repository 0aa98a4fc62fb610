"""Kubernetes: manifests from the one config, and their check without a cluster."""
