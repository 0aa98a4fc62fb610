"""What a neighbour, a signal, a crash or a slow caller does to an endpoint, and to nobody else."""
