"""The right model, adapter and shape for every task, and a stronger tier where an answer fails its checks."""
