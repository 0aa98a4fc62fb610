"""The APIs that the hot handler speaks: each reads its body as a Query and writes the answer in its own shape."""
