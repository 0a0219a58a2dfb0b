"""Replica routing: the least predicted work among the replicas that can take the request now."""
