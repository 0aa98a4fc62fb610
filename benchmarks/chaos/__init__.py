"""What callers see while pool replicas are killed."""
