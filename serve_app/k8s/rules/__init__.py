"""Rules for manifests: sentences on what would fail in the cluster, by what they look at."""
