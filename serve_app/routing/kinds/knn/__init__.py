"""The knn router."""
