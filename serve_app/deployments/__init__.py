"""Ray Serve, and nothing else: thin shells over the plain parts. `build` is the application builder."""
