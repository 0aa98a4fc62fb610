"""A stream served over HTTP while its Learner is killed, and while the labels change."""
