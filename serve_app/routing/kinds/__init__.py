"""One module or folder per router kind, with its private parts."""
