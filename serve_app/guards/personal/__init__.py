"""Detection of personal data and secrets in tiers: patterns with checksums first, then Presidio, then a model."""
