"""Rankers: PairRanker and the aggregation of its comparisons."""
