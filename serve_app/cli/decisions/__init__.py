"""`jethro decisions` and `jethro replay`: the decision log, and what another policy would have made of it."""
