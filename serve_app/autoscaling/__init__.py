"""Replicas that follow the routed share of traffic: the policy, and the simulator that runs it."""
