"""What a decision is made of: thresholds, targets, risk, capacity."""
