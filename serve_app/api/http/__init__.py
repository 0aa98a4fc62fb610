"""What HTTP allows around the routes: the forms of a path, other origins, the formats of metrics."""
